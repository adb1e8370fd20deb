"""Every hostile client at once, for as long as a normal one beside them needs to be served: its answers are right, and
nothing is held when all are gone."""

import contextlib
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.conftest import WATCHDOG_S, Server, serving, wait_until, write_model

MIRROR = """
from headrace import Model
class Mirror(Model):
    def handle(self, requests):
        return [bytes(request.body)[::-1] for request in requests]
"""
PATH = "/models/mirror/invoke"
POST = f"POST {PATH} HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n".encode()
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SERVED = 1000  # right answers that the normal client gets at least, while the attacks last
FLOOD_BYTES = 32 << 20


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    with serving() as serve:
        yield serve(
            write_model(tmp_path / "mirror", MIRROR),
            HEADRACE_WORKERS="1",
            HEADRACE_ARENA="64MiB",
            HEADRACE_MAX_REQUEST="1MiB",
            HEADRACE_HEADER_TIMEOUT="1s",
            HEADRACE_BODY_TIMEOUT="1s",
            HEADRACE_IDLE_TIMEOUT="2s",
            HEADRACE_WRITE_TIMEOUT="1s",
        )


def post(body: bytes) -> bytes:
    return POST + b"Content-Length: %d\r\n\r\n" % len(body) + body


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@contextlib.contextmanager
def connected(server: Server, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), WATCHDOG_S)) for _ in range(count)
        ]


def all_of(sock: socket.socket) -> bytes:
    """What comes until the server ends the connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := sock.recv(1 << 16):
            received += data
    return received


def statuses(received: bytes) -> list[int]:
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


def last(server: Server, is_over: threading.Event, count: int, opening: bytes, byte: bytes, allowed: set[int]) -> None:
    """That many connections, which send a byte now and then, 20 a second at most. Each that the server ends is followed
    by another; once the attack is over, it has to end them all."""
    live: dict[int, socket.socket] = {}
    ready, end = select.poll(), 0.0
    while live or not is_over.is_set():
        if not is_over.is_set():
            end = time.monotonic() + WATCHDOG_S
            while len(live) < count:
                sock = server.connect()
                sock.sendall(opening)
                live[sock.fileno()] = sock
                ready.register(sock, select.POLLIN)
        assert time.monotonic() < end, f"watchdog: {len(live)} connections may go on"
        time.sleep(0.05)
        for fd, _ in ready.poll(0):
            assert set(statuses(all_of(live[fd]))) <= allowed
            ready.unregister(fd)
            live.pop(fd).close()
        for sock in live.values():
            with contextlib.suppress(ConnectionError):
                sock.send(byte)


# The slow bodies together announce more than incomplete bodies may hold: late ones are told that there is no room.
LASTING: list[tuple[int, bytes, bytes, set[int]]] = [
    (150, POST + b"x-slow: ", b"1", {408}),
    (100, POST + b"Content-Length: 1000000\r\n\r\n", b"1", {408, 503}),
    (50, CHUNKED + b"ffff\r\n", b"1", {408, 503}),
    (300, b"", b"", set()),
]
IN_PLACE = 500  # of their connections are open at any time


def refused(server: Server, cases: Iterable[tuple[bytes, int]]) -> None:
    """Each is answered once, with that status, and nothing behind it is read as a request."""
    for raw, status in cases:
        with connected(server, 1) as (sock,):
            sock.sendall(raw)
            assert statuses(all_of(sock)) == [status], raw[:80]


def chunk_lies(server: Server) -> None:
    lies = [
        b"-1\r\n",
        b"0x3\r\nabc\r\n",
        b"3\r\nabcde\r\n0\r\n\r\n",
        b"5\r\nabc\r\n0\r\n\r\n",
        b" 3\r\nabc\r\n",
        b"3\nabc\n",
    ]
    lies += [b"1" * 17 + b"\r\n", b"\r\n", b"3;a=\x00\r\nabc\r\n", b"3\r\nabcX\n0\r\n\r\n", b"0\r\nno colon\r\n\r\n"]
    refused(server, [(CHUNKED + lie + post(b"behind"), 400) for lie in lies])
    refused(server, [(CHUNKED + lie, 413) for lie in (b"7fffffff\r\n", b"fffffffffffffff\r\n", b"100001\r\n")])


def huge_heads(server: Server) -> None:
    filler = b"x" * 200_000
    refused(
        server, [(b"GET /" + filler, 414), (b"GET / HTTP/1.1\r\nx: " + filler, 431), (POST + b"a: b\r\n" * 999, 431)]
    )


def encrypted(server: Server) -> None:
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    refused(server, [(outgoing.read(), 400)])


def flood(server: Server) -> None:
    """Requests without end, of which no answer is ever read: the server stops reading, then loses patience."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(WATCHDOG_S)
    with sock:
        sock.connect(("127.0.0.1", server.port))
        requests = memoryview(post(b"[" + b"1" * 1000 + b"]") * 500)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < FLOOD_BYTES:
                sent += sock.send(requests[sent % len(requests) :])
        assert sent < FLOOD_BYTES, "the server read on"


def resets(server: Server) -> None:
    stages = [b"", POST[:20], post(b"x" * 90_000)[:-1], CHUNKED + b"5\r\nab", post(b"1"), post(b"2") * 50]
    for raw in stages * 5:
        with connected(server, 1) as (sock,):
            sock.sendall(raw)
            reset(sock)


def connects(server: Server) -> None:
    for end in (socket.socket.close, reset):
        with connected(server, 100) as socks:
            for sock in socks:
                end(sock)


REPEATED: list[Callable[[Server], None]] = [chunk_lies, huge_heads, encrypted, flood, flood, resets, connects]


def be_served(server: Server, number: int, sock: socket.socket) -> None:
    """One request of the normal client, on the connection that it keeps or, now and then, on a new one."""
    body = b'{"request": %d}' % number
    if number % 10 == 0:
        answer = server.post(PATH, body)
        assert (answer.status, answer.body) == (200, body[::-1])
        return
    sock.sendall(post(body))
    received = b""
    while not received.endswith(b"\r\n\r\n" + body[::-1]):
        data = sock.recv(1 << 16)
        assert data, received
        received += data
    assert statuses(received) == [200]


def test_should_serve_a_normal_client_rightly_under_all_attacks_at_once(server):
    assert server.post(PATH, b"[1]").body == b"]1["
    before = server.held()
    pids = [process.pid for process in server.family()]
    is_over = threading.Event()
    rounds = [0] * len(REPEATED)

    def repeat(index: int) -> None:
        while not is_over.is_set():
            REPEATED[index](server)
            rounds[index] += 1

    with ThreadPoolExecutor(len(LASTING) + len(REPEATED)) as pool:
        attacks = [pool.submit(last, server, is_over, *arguments) for arguments in LASTING]
        attacks += [pool.submit(repeat, index) for index in range(len(REPEATED))]

        try:
            wait_until(lambda: server.metric("headrace_connections") >= IN_PLACE, "the attack is not in place")
            with connected(server, 1) as (sock,):
                number = 0
                while number < SERVED or not all(rounds):
                    be_served(server, number, sock)
                    number += 1
                    for each in attacks:
                        assert not each.done(), each.result()
        finally:
            is_over.set()
    for each in attacks:
        each.result()
    assert [process.pid for process in server.family()] == pids  # none was ended, none was added
    server.check_holds_no_more_than(before)
    assert server.post(PATH, b"[2]").body == b"]2["
