"""A process that dies, or a resource that is gone, at each point that ext/fault.h names: every answer is right, all
slots come free, descriptors and processes are what they were, and it still serves."""

import contextlib
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headrace._memory import HAS_FAULTS
from tests.e2e.conftest import WATCHDOG_S, Server, serving, wait_until, write_model

pytestmark = pytest.mark.skipif(not HAS_FAULTS, reason="release builds have no crash points; make test-debug has")

HEADER = (Path(__file__).parents[2] / "ext/fault.h").read_text()
POINTS = re.findall(r"(?:worker|frontend|slot|ring)\.\w+", HEADER.partition("*/")[0].rpartition("*\n")[2])
WORKER = [point for point in POINTS if point.startswith("worker.")]
FRONTEND = [point for point in POINTS if point.startswith("frontend.")]
CLIENTS, REQUESTS = 8, 25  # so that each process passes each point more than SEVENTH times, however large the batches
# An answer of its own, which has to be copied into the slot; a long one needs a larger slot.
MIRROR = """
from headrace import Model
class Mirror(Model):
    def handle(self, requests):
        return [bytes(request.body)[::-1] * (1 if len(request.body) < 10_000 else 10) for request in requests]
"""
PATH = "/models/mirror/invoke"


def mirrored(body: bytes) -> bytes:
    return body[::-1] * (1 if len(body) < 10_000 else 10)


@contextlib.contextmanager
def failing(tmp_path: Path, point: str, passage: int) -> Iterator[Server]:
    """A server with that fault; afterwards the fault has struck, once, and cost nothing that stays."""
    mark = tmp_path / "armed"
    mark.touch()
    with serving() as serve:
        server = serve(
            write_model(tmp_path / "mirror", MIRROR),
            HEADRACE_WORKERS="2",
            HEADRACE_ARENA="32MiB",
            HEADRACE_MAX_REQUEST="1MiB",
            HEADRACE_FAULT=f"{point}:{passage}:{mark}",
        )
        before = server.held()
        yield server
        assert not mark.exists(), f"{point} was not passed {passage} times"
        server.check_holds_no_more_than(before)
        assert server.post(PATH, b"[2]").body == b"]2["


class Client:
    """Asks one request after another on a connection that it keeps; asks again, on a new one, where it may be lost."""

    def __init__(self, server: Server, may_lose: bool) -> None:
        self.server, self.may_lose, self.lost = server, may_lose, 0
        self.sock = server.connect()

    def ask(self, raw: bytes) -> tuple[int, bytes]:
        while True:
            try:
                self.sock.sendall(raw)
                return read_answer(self.sock)
            except ConnectionError:
                assert self.may_lose, "the connection was lost"
                self.lost += 1
                self.sock = self.server.connect()


def read_answer(sock: socket.socket) -> tuple[int, bytes]:
    """Status and body. ConnectionError when the connection ends before the answer does."""
    received = b""
    while not (found := re.match(rb"HTTP/1\.1 (\d{3}) .*?content-length: (\d+)\r\n.*?\r\n\r\n", received, re.S)) or (
        len(received) < found.end() + int(found[2])
    ):
        if not (data := sock.recv(1 << 16)):
            raise ConnectionError(f"ended after {received[:200]!r}")
        received += data
    assert len(received) == found.end() + int(found[2]), "more than one answer"
    return int(found[1]), received[found.end() :]


def post(body: bytes) -> bytes:
    return f"POST {PATH} HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("passage", [1, 7])
@pytest.mark.parametrize("point", POINTS)
def test_should_answer_every_request_rightly(tmp_path, point, passage):
    """No client sees a worker's death; a frontend's takes its connections along, and its successor answers."""
    with failing(tmp_path, point, passage) as server:

        def ask_all(number: int) -> int:
            client = Client(server, point in FRONTEND)
            for i in range(REQUESTS):
                body = b'{"client": %d, "request": %d}' % (number, i)
                if i % 5 == 1:
                    body += b" " * 10_000
                assert client.ask(post(body)) == (200, mirrored(body))
            client.sock.close()
            return client.lost

        with ThreadPoolExecutor(CLIENTS) as pool:
            lost = list(pool.map(ask_all, range(CLIENTS), timeout=WATCHDOG_S))
        assert any(lost) == (point in FRONTEND)
        end = "status=1" if point == "frontend.memory" else "signal=SIGKILL"
        for who, points in (("worker", WORKER), ("frontend", FRONTEND)):
            if point in points:
                wait_until(lambda who=who: server.find(rf"{who}\.lost .*{end}"), "the death is not logged")
                assert server.log.count(f"{who}.lost") == 1


@pytest.mark.parametrize("passage", range(1, 7))
def test_should_wait_for_each_slot_that_is_not_to_be_had(tmp_path, passage):
    """For a body, for the growth of a chunked one, and for an answer that needs a larger slot than its request."""
    small, grown, long = b"[1, 2]", bytes(range(256)) * 30, bytes(range(255)) * 1000
    pieces = [grown[at : at + 600] for at in range(0, len(grown), 600)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    chunked = f"POST {PATH} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + chunks
    with failing(tmp_path, "slot.lease", passage) as server:
        client = Client(server, may_lose=False)
        assert client.ask(post(small)) == (200, small[::-1])
        assert client.ask(chunked) == (200, grown[::-1])
        assert client.ask(post(long)) == (200, long[::-1] * 10)
        assert client.ask(post(small)) == (200, small[::-1])
        client.sock.close()
