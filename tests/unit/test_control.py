"""The control channel over real socket pairs: frames, descriptors, calls, the end, and a peer that sends nonsense."""

import asyncio
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator

import orjson
import pytest
import uvloop

from headrace import control, control_async, errors
from headrace.control import Channel, ChannelError
from headrace.control_async import AsyncChannel

Script = Callable[[], Awaitable[None]]


@pytest.fixture(scope="module", params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Script], None]]:
    """Runs a coroutine function on each of the two loops; ends after 30 s whatever happens."""
    loop = request.param()
    loop.run_until_complete(asyncio.sleep(0))  # what a loop opens for itself, it opens now
    yield lambda script: loop.run_until_complete(asyncio.wait_for(script(), 30))
    loop.close()


@pytest.fixture(autouse=True)
def no_descriptor_leaks() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


def frame(body: bytes) -> bytes:
    return struct.pack("<I", len(body)) + body


def channels() -> tuple[Channel, Channel]:
    left, right = control.pair()
    return Channel(left), Channel(right)


def test_messages_keep_their_order_and_content() -> None:
    left, right = channels()
    sent = [{"op": "load", "n": n, "text": "ü" * n} for n in range(40)]
    for message in sent:
        left.send(message)
    assert [right.receive() for _ in sent] == [(message, []) for message in sent]
    left.close()
    right.close()


def test_a_message_larger_than_the_socket_buffer_arrives_whole() -> None:
    left, right = channels()
    message = {"op": "load", "text": "x" * 3_000_000}
    sender = threading.Thread(target=left.send, args=(message,))
    sender.start()
    assert right.receive() == (message, [])
    sender.join()
    left.close()
    right.close()


def test_any_split_of_the_bytes_gives_the_same_messages() -> None:
    data = control.encode({"op": "a", "x": 1}) + control.encode({"op": "b"})
    for cut in range(len(data) + 1):
        decoder = control.Decoder()
        seen = []
        for piece in (data[:cut], data[cut:]):
            decoder.feed(piece, ())
            while (received := decoder.next()) is not None:
                seen.append(received[0])
        assert seen == [{"op": "a", "x": 1}, {"op": "b"}]


def test_descriptors_reach_the_message_that_they_were_sent_with() -> None:
    left, right = channels()
    with tempfile.TemporaryFile() as one, tempfile.TemporaryFile() as two:
        left.send({"op": "plain"})
        left.send({"op": "one"}, [one.fileno()])
        left.send({"op": "none"})
        left.send({"op": "both"}, [two.fileno(), one.fileno()])
        inodes = {os.fstat(one.fileno()).st_ino: "one", os.fstat(two.fileno()).st_ino: "two"}
    seen = []
    for _ in range(4):
        received = right.receive()
        assert received is not None
        message, fds = received
        seen.append((message, [inodes[os.fstat(fd).st_ino] for fd in fds]))
        assert not any(os.get_inheritable(fd) for fd in fds)
        control.close_descriptors(fds)
    assert seen == [
        ({"op": "plain"}, []),
        ({"op": "one"}, ["one"]),
        ({"op": "none"}, []),
        ({"op": "both"}, ["two", "one"]),
    ]
    left.close()
    right.close()


def test_receive_with_a_timeout_gives_none_and_loses_nothing() -> None:
    raw, sock = control.pair()
    channel = Channel(sock)
    data = control.encode({"op": "late"})
    assert channel.receive(0) is None
    raw.send(data[:5])
    assert channel.receive(0.01) is None
    raw.send(data[5:])
    assert channel.receive(0) == ({"op": "late"}, [])
    raw.close()
    channel.close()


@pytest.mark.parametrize(
    ("sent", "where"), [(b"", "between two messages"), (b"\x09\x00", "in the middle of a message")]
)
def test_the_end_says_where_it_came(sent: bytes, where: str) -> None:
    raw, sock = control.pair()
    raw.send(sent)
    raw.close()
    channel = Channel(sock)
    with pytest.raises(EOFError, match=where):
        channel.receive(10)
    with pytest.raises(ConnectionError):
        channel.send({"op": "hello"})
    channel.close()


GARBAGE = {
    "length beyond the limit": (
        struct.pack("<I", control.MESSAGE_BYTES_MAX + 1),
        "4194305 bytes; the limit is 4194304",
    ),
    "no JSON": (frame(b"{oops"), "not JSON"),
    "empty": (frame(b""), "not JSON"),
    "a list": (frame(b"[1, 2]"), 'without an "op"'),
    "an op that is no text": (frame(b'{"op": 5}'), 'without an "op"'),
    "descriptors that did not come": (frame(b'{"op": "x", "fds": 2}'), "wants 2 descriptors; 0 came"),
    "a negative count": (frame(b'{"op": "x", "fds": -1}'), "wants -1 descriptors"),
    "a count that is no number": (frame(b'{"op": "x", "fds": true}'), "wants True descriptors"),
    "HTTP": (b"GET / HTTP/1.1\r\n\r\n", "the limit is"),
}


@pytest.mark.parametrize(("sent", "message"), GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_a_clear_error(sent: bytes, message: str) -> None:
    raw, sock = control.pair()
    raw.send(sent)
    channel = Channel(sock)
    with pytest.raises(ChannelError, match=message):
        channel.receive(10)
    raw.close()
    channel.close()


def test_descriptors_that_no_message_announces_end_the_channel_and_are_closed() -> None:
    raw, sock = control.pair()
    channel = Channel(sock)
    with tempfile.TemporaryFile() as file:
        for _ in range(3):
            socket.send_fds(raw, [frame(b'{"op": "x"}')], [file.fileno()] * 32)
    assert [channel.receive(10), channel.receive(10)] == [({"op": "x"}, [])] * 2
    with pytest.raises(ChannelError, match="without a frame"):
        channel.receive(10)
    raw.close()
    channel.close()  # and the fixture sees that none is left


def test_more_descriptors_than_the_kernel_may_hand_over_at_once() -> None:
    raw, sock = control.pair()
    channel = Channel(sock)
    with tempfile.TemporaryFile() as file:
        socket.send_fds(raw, [frame(b'{"op": "x"}')], [file.fileno()] * 200)
    with pytest.raises(ChannelError):
        channel.receive(10)
    raw.close()
    channel.close()


def test_limits_of_what_is_sent() -> None:
    left, right = channels()
    with pytest.raises(ValueError, match="the limit is 4194304"):
        left.send({"op": "x", "text": "y" * control.MESSAGE_BYTES_MAX})
    with pytest.raises(ValueError, match="at most 64"):
        left.send({"op": "x"}, [0] * 65)
    with pytest.raises(ValueError, match="the key fds is the channel's own"):
        left.send({"op": "x", "fds": 1})
    left.close()
    right.close()


def test_calls_meet_their_replies_in_any_order(run: Callable[[Script], None]) -> None:
    async def script() -> None:
        left, right = control.pair()
        caller, answerer = AsyncChannel(left), AsyncChannel(right)
        calls = [caller.call({"op": "square", "n": n}) for n in range(20)]
        questions = [(await answerer.receive())[0] for _ in calls]
        for question in reversed(questions):
            answerer.reply(question, square=question["n"] ** 2)
        assert [(await call)["square"] for call in calls] == [n * n for n in range(20)]
        caller.close()
        answerer.close()

    run(script)


def test_a_remote_error_keeps_its_class_status_and_detail(run: Callable[[Script], None]) -> None:
    async def script() -> None:
        left, right = control.pair()
        caller, answerer = AsyncChannel(left), Channel(right)
        call = caller.call({"op": "load"})
        received = answerer.receive(10)
        assert received is not None
        answerer.reply(received[0], **errors.to_message(errors.ModelError("no module named x", "Traceback ...")))
        with pytest.raises(errors.ModelError, match="no module named x") as caught:
            await call
        assert caught.value.detail == "Traceback ..."
        caller.close()
        answerer.close()

    run(script)


def test_calls_fail_when_the_peer_goes_and_when_time_is_up(run: Callable[[Script], None]) -> None:
    async def script() -> None:
        left, right = control.pair()
        caller = AsyncChannel(left)
        with pytest.raises(TimeoutError, match="no reply to control message 'load'"):
            await caller.call({"op": "load"}, timeout=0.01)
        call = caller.call({"op": "load"})
        right.close()
        with pytest.raises(ConnectionError):
            await call
        with pytest.raises(EOFError):
            await caller.receive()
        assert not caller.is_open
        with pytest.raises(ConnectionError, match="'load' not sent"):
            caller.call({"op": "load"})
        caller.close()

    run(script)


def test_last_words_are_read_before_the_end(run: Callable[[Script], None]) -> None:
    async def script() -> None:
        left, right = control.pair()
        supervisor, worker = AsyncChannel(left), Channel(right)
        call = supervisor.call({"op": "load"})
        received = worker.receive(10)
        assert received is not None
        worker.reply(received[0], info={"why": "last words"})
        worker.close()
        with pytest.raises(ConnectionError):
            supervisor.send({"op": "too late"})
        assert (await call)["info"] == {"why": "last words"}
        supervisor.close()

    run(script)


def test_serve_hands_out_messages_in_order_and_returns_at_the_end(run: Callable[[Script], None]) -> None:
    async def script() -> None:
        left, right = control.pair()
        server, client = AsyncChannel(left), Channel(right)
        seen: list[int] = []

        async def slowly(message: control.Message, fds: list[int]) -> None:
            control.close_descriptors(fds)
            await asyncio.sleep(0)
            seen.append(message["n"])

        for n in range(10):
            client.send({"op": "count", "n": n}, [right.fileno()] if n % 2 else [])
        client.close()
        await server.serve(slowly)
        assert seen == list(range(10))
        server.close()

    run(script)


def test_send_never_waits_and_keeps_order_past_a_full_socket(run: Callable[[Script], None]) -> None:
    async def script() -> None:
        left, right = control.pair()
        sent: list[None] = []
        sender, receiver = AsyncChannel(left, on_sent=lambda: sent.append(None)), AsyncChannel(right)
        text = "x" * 100_000
        with tempfile.TemporaryFile() as file:
            inode = os.fstat(file.fileno()).st_ino
            for n in range(50):
                sender.send({"op": "count", "n": n, "text": text}, [file.fileno()])
        for n in range(50):
            message, fds = await receiver.receive()
            assert message["n"] == n
            assert [os.fstat(fd).st_ino for fd in fds] == [inode]
            control.close_descriptors(fds)
        assert len(sent) == 50
        sender.close()
        receiver.close()

    run(script)


def test_a_peer_that_never_reads_is_given_up(run: Callable[[Script], None]) -> None:
    async def script() -> None:
        left, right = control.pair()
        sender = AsyncChannel(left)
        message = {"op": "x", "text": "y" * 1_000_000}
        for _ in range(control_async.SEND_BYTES_MAX // 1_000_000):
            sender.send(message)
        with pytest.raises(ChannelError, match="peer does not read"):
            sender.send(message)
        right.close()
        sender.close()

    run(script)


def test_a_flood_that_nobody_takes_is_not_read_on(run: Callable[[Script], None]) -> None:
    async def script() -> None:
        left, right = control.pair()
        receiver = AsyncChannel(left)
        right.setblocking(False)
        data = control.encode({"op": "x"}) * 1000
        sent = 0
        for _ in range(10_000):
            try:
                sent += right.send(data)
            except BlockingIOError:
                if len(receiver._inbox) >= control_async.INBOX_MAX:
                    break
            await asyncio.sleep(0)
        else:
            pytest.fail(f"{sent} bytes were read and kept")
        await receiver.receive()
        receiver.close()
        right.close()

    run(script)


def test_garbage_ends_an_asynchronous_channel_and_its_calls(run: Callable[[Script], None]) -> None:
    async def script() -> None:
        left, right = control.pair()
        channel = AsyncChannel(left)
        call = channel.call({"op": "load"})
        right.send(frame(orjson.dumps(["no object"])))
        with pytest.raises(ConnectionError, match='without an "op"'):
            await call
        with pytest.raises(ChannelError, match='without an "op"'):
            await channel.serve(lambda message, fds: None)
        channel.close()
        right.close()

    run(script)
