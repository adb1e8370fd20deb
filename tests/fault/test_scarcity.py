"""No slot to be had, bodies that trickle, answers that are due: who waits, for how long, and what is answered then."""

import socket
import time
from collections import deque

import pytest
from rig import MIB, WATCHDOG_S, Client, Rig, rigged, wait_until
from wire import GRANT, NEED

LARGE = b"l" * 400_000


def scarce(**limits: int):
    """A rig whose arena holds two large bodies."""
    return rigged(arena_bytes=MIB, max_request=500_000, max_response=500_000, **limits)


def fill(rig: Rig):
    """Takes the whole arena: clients that wait for their answers, with what the worker was given."""
    taken = []
    for _ in range(2):
        client = rig.connect().post(LARGE)
        taken.append((client, rig.peers[0].take()))
    return taken


def starving(rig: Rig, client: Client) -> Client:
    """Has the client send what there is no room for, and waits until the frontend knows."""
    return in_line(rig, client.post(LARGE))


def in_line(rig: Rig, client: Client, before: int = 0) -> Client:
    wait_until(lambda: rig.stats()["waiting_for_slots"] == before + 1, "there was room")
    return client


def test_should_stop_reading_until_a_slot_is_free():
    with scarce() as rig:
        (first, entry), (second, other) = fill(rig)
        waiting = starving(rig, rig.connect())
        assert rig.peers[0].waiting() == 0
        rig.peers[0].echo(entry)
        assert first.answer()[2] == LARGE
        late = rig.peers[0].take()
        assert rig.peers[0].body(late) == LARGE
        rig.peers[0].echo(late)
        rig.peers[0].echo(other)
        assert [waiting.answer()[2], second.answer()[2]] == [LARGE, LARGE]


def test_should_let_small_bodies_arrive_where_a_large_one_holds_the_share_of_incomplete_ones():
    """Most clients send head and body apart; those waited for slow uploads, until they were answered 503."""
    head = "POST /models/m/invoke HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n"
    with scarce() as rig:
        slow = rig.connect().send(head.format(499_000).encode())
        share = wait_until(lambda: rig.stats()["incomplete_bytes"], "the large one is not begun")
        assert share > MIB // 2
        client = rig.connect().send(head.format(5).encode())
        wait_until(lambda: rig.stats()["incomplete_bytes"] > share, "the small one has to wait")
        client.send(b"small")
        rig.peers[0].echo(rig.peers[0].take())
        assert client.answer()[2] == b"small"
        slow.reset()


def test_should_keep_a_request_s_place_until_it_has_its_slot():
    """One that was tried in vain went to the end of the line."""
    with scarce() as rig:
        (first, entry), (second, other) = fill(rig)
        older = in_line(rig, rig.connect().post(b"o" * 400_000))
        younger = in_line(rig, rig.connect().post(b"y" * 400_000), 1)
        for _ in range(3):  # a slot that is too small for them comes and goes
            small = rig.connect().post(b"small")
            rig.peers[0].echo(rig.peers[0].take())
            assert small.answer()[2] == b"small"
        rig.peers[0].echo(entry)
        assert first.answer()[2] == LARGE
        entry = rig.peers[0].take()
        assert rig.peers[0].body(entry)[:1] == b"o"
        rig.peers[0].echo(other)
        rig.peers[0].echo(entry)
        rig.peers[0].echo(rig.peers[0].take())
        assert [client.answer()[2][:1] for client in (second, older, younger)] == [b"l", b"o", b"y"]


def test_should_serve_a_large_one_however_many_small_ones_follow():
    """Each slot that became free was taken by the next small one, for as long as such came."""
    with scarce() as rig:
        peer, clients, held = rig.peers[0], [], deque()

        def ask(number: int) -> None:
            clients[number].post(b"%06d" % number + bytes(60_000))

        def settle(count: int) -> None:
            """Until each of so many requests is at the worker or in line."""
            wait_until(
                lambda: len(held) + peer.waiting() + rig.stats()["waiting_for_slots"] == count, "one is not there"
            )
            while peer.waiting():
                held.append(peer.take())

        while not rig.stats()["waiting_for_slots"]:
            clients.append(rig.connect())
            ask(len(clients) - 1)
            settle(len(clients))
        large = rig.connect().post(LARGE)
        settle(len(clients) + 1)
        for _ in range(3 * len(clients)):
            number = int(peer.body(held[0])[:6])
            peer.echo(held.popleft())
            assert clients[number].answer()[0] == 200
            ask(number)  # and so on, without an end
            settle(len(clients) + 1)
            if held[-1].body_length == len(LARGE):
                break
        assert held[-1].body_length == len(LARGE)
        peer.echo(held.pop())
        assert large.answer()[2] == LARGE
        while rig.stats()["unanswered"] or rig.stats()["waiting_for_slots"]:
            if held or peer.waiting():
                peer.echo(held.popleft() if held else peer.take())


def test_should_find_room_for_answers_although_requests_hold_the_whole_arena():
    """Each waited for the others' slots, until all were answered 504."""
    with scarce() as rig:
        taken = fill(rig)
        for _, entry in taken:
            rig.peers[0].publish(entry, op=NEED, body_length=400_000)
        for client, entry in taken:
            grant = rig.peers[0].take()
            assert (grant.op, grant.request_id) == (GRANT, entry.request_id)
            rig.peers[0].write(grant, 0, b"z" * 400_000)
            rig.peers[0].publish(grant, body_length=400_000)
            assert client.answer()[2] == b"z" * 400_000


def test_should_count_the_time_in_line_against_the_deadline():
    with scarce() as rig:
        (first, entry), (second, other) = fill(rig)
        client = in_line(rig, rig.connect().post(LARGE, "x-headrace-timeout-ms: 60"))
        end = time.monotonic() + 0.08
        wait_until(lambda: time.monotonic() > end, "no time passes")
        rig.peers[0].echo(entry)
        late = rig.peers[0].take()
        assert late.deadline_ns < time.monotonic_ns()
        assert client.answer()[0] == 504
        for each in (late, other):
            rig.peers[0].echo(each)
        assert [one.answer()[2] for one in (first, second)] == [LARGE, LARGE]


HALF = b"POST /models/m/invoke HTTP/1.1\r\nhost: t\r\ncontent-length: 4\r\n\r\nab"
CHUNK = b"POST /models/m/invoke HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n"


def begun(rig: Rig, *openings: bytes) -> list[Client]:
    """Clients that have sent this much of a request and no more, once the frontend has it."""
    clients = [rig.connect().send(opening) for opening in openings]
    wait_until(lambda: rig.stats()["unanswered"] == len(clients), "not there")
    return clients


@pytest.mark.parametrize("limit", ["HEADRACE_QUEUE)", "HEADRACE_QUEUE_TOTAL)"])
def test_should_give_no_place_in_a_queue_to_a_body_that_has_not_arrived(limit):
    """Clients that trickled bodies filled the queues, and all others were answered 503."""
    with rigged(queue_total=2 if "TOTAL" in limit else 1000) as rig:
        rig.route(most=100 if "TOTAL" in limit else 2)
        half, chunked, gone, late = begun(rig, HALF, CHUNK, HALF, HALF)
        assert rig.call(rig.path.tally, 1)["in_flight"] == {"m": 0}
        whole = rig.connect().post(b"whole")
        rig.peers[0].echo(rig.peers[0].take())
        assert whole.answer()[::2] == (200, b"whole")

        gone.reset()
        wait_until(lambda: rig.stats()["unanswered"] == 3, "it is not missed")
        half.send(b"cd")
        chunked.send(b"2\r\ncd\r\n0\r\n\r\n")
        taken = [rig.peers[0].take() for _ in range(2)]
        assert rig.call(rig.path.tally, 1)["in_flight"] == {"m": 2}
        status, fields, body = late.send(b"cd").answer()
        assert (status, limit.encode() in body, "retry-after" in fields) == (503, True, True)
        assert rig.stats()["overloaded"] == 1
        for entry in taken:
            rig.peers[0].echo(entry)
        assert [half.answer()[::2], chunked.answer()[::2]] == [(200, b"abcd")] * 2
        assert rig.call(rig.path.tally, 1)["in_flight"] == {"m": 0}
        late.post(b"once more")  # its body had been read, so its connection goes on
        rig.peers[0].echo(rig.peers[0].take())
        assert late.answer()[::2] == (200, b"once more")


def test_should_load_a_model_again_that_was_evicted_while_a_body_arrived():
    with rigged() as rig:
        (client,) = begun(rig, HALF)
        assert rig.call(rig.path.uses) == []  # so it may be evicted
        rig.call(rig.path.set_route, "m", 1, [], 10, 20_000, True)
        assert rig.woken == []
        client.send(b"cd")
        wait_until(lambda: rig.woken == [1], "not woken")
        assert [(model, in_flight) for model, _, in_flight in rig.call(rig.path.uses)] == [(1, 1)]
        rig.route()
        rig.peers[0].echo(rig.peers[0].take())
        assert client.answer()[::2] == (200, b"abcd")


def test_should_ask_the_model_that_has_the_name_when_the_body_is_there():
    with rigged() as rig:
        (client,) = begun(rig, HALF)
        rig.call(rig.path.remove_route, "m")
        rig.call(rig.path.set_route, "m", 2, [0], 10, 20_000, True)
        client.send(b"cd")
        entry = rig.peers[0].take()
        assert entry.model == 2
        rig.peers[0].echo(entry)
        assert client.answer()[::2] == (200, b"abcd")
        assert rig.call(rig.path.tally, 1)["in_flight"] == {"m": 0}


def test_should_answer_503_with_retry_after_when_no_slot_came_in_time():
    with scarce(body_timeout_ms=100) as rig:
        taken = fill(rig)
        status, fields, body = starving(rig, rig.connect()).answer()
        assert (status, fields["connection"]) == (503, "close")
        assert 1 <= int(fields["retry-after"]) <= 30
        assert b"HEADRACE_ARENA" in body
        for client, entry in taken:
            rig.peers[0].echo(entry)
            assert client.answer()[2] == LARGE


def test_should_answer_once_what_starves_behind_an_unanswered_request():
    """It was answered again in every sweep, for as long as the one before it took."""
    with scarce(body_timeout_ms=100) as rig:
        client = rig.connect().post(b"first")
        first = rig.peers[0].take()
        taken = fill(rig)
        starving(rig, client)
        wait_until(lambda: rig.stats()["overloaded"] == 1, "not given up")
        sweeps = rig.stats()["polls"]
        end = time.monotonic() + 0.3  # a dozen sweeps
        wait_until(lambda: time.monotonic() > end, f"{sweeps}")
        assert rig.stats()["unanswered"] == 4
        rig.peers[0].echo(first)
        assert client.answer()[::2] == (200, b"first")
        assert client.answer()[0] == 503
        assert client.ends()
        for other, entry in taken:
            rig.peers[0].echo(entry)
            assert other.answer()[2] == LARGE


def test_should_end_a_body_that_comes_too_slowly_although_it_never_stops():
    with rigged(body_timeout_ms=200, min_rate=1000) as rig:
        client = rig.connect().send(b"POST /models/m/invoke HTTP/1.1\r\nhost: t\r\ncontent-length: 100000\r\n\r\n")
        client.sock.settimeout(0.02)
        for _ in range(1500):  # 50 bytes a second, for half a minute at most
            client.send(b"x")
            try:
                if client.fill():
                    break
            except TimeoutError:
                pass
        client.sock.settimeout(30)
        status, _, body = client.answer()
        assert (status, b"HEADRACE_MIN_RATE" in body) == (408, True)


def test_should_take_a_long_body_that_comes_slowly_and_steadily():
    with rigged(body_timeout_ms=1000, min_rate=1000) as rig:
        client = rig.connect().send(b"POST /models/m/invoke HTTP/1.1\r\nhost: t\r\ncontent-length: 35000\r\n\r\n")
        for _ in range(70):  # 25,000 bytes a second for longer than the time-out
            client.send(b"y" * 500)
            time.sleep(0.02)
        rig.peers[0].echo(rig.peers[0].take())
        assert client.answer()[2] == b"y" * 35_000


@pytest.mark.parametrize("rest", [b"content-length: 100\r\n\r\nabc", b"content-length: 9\r\n\r\n"])
def test_should_answer_a_request_once_though_its_discarded_body_never_ends(rest):
    with rigged(body_timeout_ms=100) as rig:
        client = rig.connect().send(b"POST /models/none/invoke HTTP/1.1\r\nhost: t\r\n" + rest)
        assert client.answer()[0] == 404
        assert client.ends()


def test_should_turn_away_connections_past_the_limit_and_serve_those_within():
    with rigged(max_connections=3) as rig:
        clients = [rig.connect() for _ in range(3)]
        wait_until(lambda: rig.stats()["connections"] == 3, "not connected")
        surplus = rig.connect()
        status, fields, body = surplus.answer()
        assert (status, fields["connection"], "retry-after" in fields) == (503, "close", True)
        assert b"HEADRACE_MAX_CONNECTIONS" in body
        assert surplus.ends()
        for number, client in enumerate(clients):
            client.post(b"%d" % number)
            rig.peers[0].echo(rig.peers[0].take())
            assert client.answer()[::2] == (200, b"%d" % number)
        for client in (*clients, surplus):
            client.reset()
        wait_until(lambda: rig.stats()["connections"] == 0, "they are not missed")


def test_should_read_no_further_while_one_connection_holds_many_bytes():
    with rigged(arena_bytes=64 * MIB) as rig:
        client = rig.connect()
        client.sock.settimeout(0.5)
        raw = b"POST /models/m/invoke HTTP/1.1\r\nhost: t\r\ncontent-length: 900000\r\n\r\n" + b"p" * 900_000
        with pytest.raises(TimeoutError):  # 4 MiB of slots, and what the kernel keeps
            client.sock.sendall(raw * 100)
        assert rig.peers[0].waiting() <= 6
        client.reset()
        for _ in range(rig.peers[0].waiting()):
            rig.peers[0].publish(rig.peers[0].take())


def unread(rig: Rig) -> Client:
    """A client with little room for an answer, and an answer of 8 MB that it does not read."""
    sock = socket.socket()
    sock.settimeout(WATCHDOG_S)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", rig.port))
    rig.sockets.append(sock)
    client = Client(sock).post(bytes(8 * MIB))
    rig.peers[0].echo(rig.peers[0].take())
    wait_until(rig.peers[0].taken, "the answer is not taken")
    return client


def test_should_end_a_client_that_does_not_read_its_answer_and_have_the_slot_back():
    with rigged(arena_bytes=32 * MIB, max_request=8 * MIB, write_timeout_ms=200) as rig:
        unread(rig)
        assert rig.stats()["slots_leased"] == 1
        wait_until(lambda: rig.stats()["connections"] == 0, "the client may go on")
        assert rig.stats()["slots_leased"] == 0


def test_should_wait_for_a_client_that_reads_its_answer_slowly_and_steadily():
    with rigged(arena_bytes=32 * MIB, max_request=8 * MIB, write_timeout_ms=400) as rig:
        client = unread(rig)
        end = time.monotonic() + 1.2  # three times the time-out
        while time.monotonic() < end:
            assert client.fill()
            time.sleep(0.02)
        assert client.answer()[2] == bytes(8 * MIB)


def test_should_answer_what_was_asked_before_it_drains_and_nothing_behind_it():
    with rigged() as rig:
        client = rig.connect().post(b"1").post(b"2")
        entries = [rig.peers[0].take() for _ in range(2)]
        # The data path is told to end; a new one would serve the check.
        rig.call(rig.path.drain_connections)
        client.post(b"3")
        for entry in entries:
            rig.peers[0].echo(entry)
        assert client.answer()[2] == b"1"
        status, fields, body = client.answer()
        assert (status, fields["connection"], body) == (200, "close", b"2")
        assert client.ends()
        assert rig.stats()["slots_leased"] == 0
        rig.is_drained = True


def test_should_answer_504_to_requests_that_wait_for_a_worker_past_their_deadline():
    """Leaving its route gives the next request there to a worker: that must not be the one that is being answered."""
    with rigged() as rig:
        rig.call(rig.path.set_route, "m", 7, [], 10, 50, False)
        clients = [rig.connect().post(b"{}") for _ in range(3)]
        assert [client.answer()[0] for client in clients] == [504, 504, 504]
        rig.call(rig.path.set_route, "m", 7, [0], 10, 20_000, False)
        client = rig.connect().post(b"late")
        rig.peers[0].echo(rig.peers[0].take())
        assert client.answer()[2] == b"late"
