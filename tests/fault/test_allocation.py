"""Every allocation of a frontend's and of a worker's way with a request fails once. Either the work is done all the
same, or MemoryError comes out, which ends the process: nothing is swallowed, no wrong byte goes out, and books that go
on are right. Loads are not tried like this: some allocations of CPython's own modules, of which one is made, break it.
"""

import contextlib
import gc
import importlib.util
import mmap
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rig import MIB, Peer
from test_worker_end import CAPACITY, FrontendEnd
from wire import GRANT, NEED

from headrace import media
from headrace._frontend import INFERENCE, Frontend
from headrace._memory import create_board, create_segment, largest_slot

SOURCE = Path(__file__).resolve().parents[1] / "native/nth_allocation.c"

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


@pytest.fixture(scope="module")
def nth(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The module of nth_allocation.c."""
    target = tmp_path_factory.mktemp("nth") / "nth_allocation.so"
    include = f"-I{sysconfig.get_path('include')}"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", include]
    subprocess.run(["gcc", *flags, str(SOURCE), "-o", str(target)], check=True, timeout=120)
    spec = importlib.util.spec_from_file_location("nth_allocation", target)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Failing:
    """failing(callable, ...) calls it, while allocations are counted."""

    def __init__(self, nth: Any) -> None:
        self.nth = nth

    def __call__(self, work: Callable[..., Any], *arguments: Any) -> Any:
        self.nth.count(True)
        try:
            return work(*arguments)
        finally:
            self.nth.count(False)


IDLE = Failing(SimpleNamespace(count=lambda on: None))


def each_allocation(nth: Any, scenario: Callable[[Failing], None], step: int = 1) -> int:
    """Runs the scenario with its first, second ... allocation failing, until none does. Returns their number."""
    swallowed: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, swallowed.append
    gc.disable()  # a collection would allocate where it likes
    try:
        scenario(IDLE)  # free lists and caches are warm
        for number in range(1, 1_000_000, step):
            nth.start(number)
            try:
                scenario(Failing(nth))
            finally:
                counted, struck = nth.stop()
            assert not swallowed, (number, swallowed[0].exc_value, swallowed[0].object)
            if not struck:
                return int(counted)
    finally:
        sys.unraisablehook = hook
        gc.enable()
        gc.collect()
    raise AssertionError("there is no end to it")


class Loop:
    """As much of an event loop as the data path asks for."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.due.append(callback)


class Transport:
    """A transport over a real socket, and the client at the other end. Nothing in it allocates while it is called."""

    def __init__(self, path: Frontend) -> None:
        self.ours, self.client = socket.socketpair()
        self.client.settimeout(10)
        self.is_closed = False
        self.protocol: Any = path.protocol(INFERENCE)

    def get_extra_info(self, name: str) -> Any:
        return self.ours if name == "socket" else None

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.is_closed = True

    pause_reading = resume_reading = abort = close

    def feed(self, failing: Failing, data: bytes) -> None:
        """What a loop does with bytes that have come."""
        while data:
            buffer = memoryview(failing(self.protocol.get_buffer, -1))
            piece, data = data[: len(buffer)], data[len(buffer) :]
            buffer[: len(piece)] = piece
            buffer.release()
            failing(self.protocol.buffer_updated, len(piece))

    def received(self) -> bytes:
        self.ours.close()
        data = b""
        while piece := self.client.recv(1 << 20):
            data += piece
        self.client.close()
        return data


class Driven:
    """A data path, driven step by step."""

    def __init__(self) -> None:
        largest = largest_slot(MIB, MIB)
        self.fds = [create_board(), create_segment(0, 8 * MIB, largest), os.eventfd(0, os.EFD_NONBLOCK)]
        self.memory = mmap.mmap(self.fds[1], 0)
        self.loop = Loop()
        names = ["max_request", "max_response", "max_connections", "queue_total", "min_rate", "retries", "spin_us"]
        names += [f"{what}_timeout_ms" for what in ("header", "body", "idle", "write")]
        limits = dict.fromkeys(names, 10_000) | {"max_request": MIB, "max_response": MIB, "spin_us": 0}
        self.path = Frontend(
            self.loop,  # type: ignore[arg-type]
            *self.fds,
            8 * MIB,
            largest,
            limits,
            lambda status, text: b'{"code": %d}' % status,
            lambda *asked: None,
            lambda worker: None,
            lambda model: None,
        )
        self.path.worker_up(0)
        self.path.set_route("m", 1, [0], 100, 10_000, True)
        self.peer = Peer(self, 0)  # type: ignore[arg-type]

    def ring(self) -> None:
        os.eventfd_write(self.fds[2], 1)

    def close(self) -> None:
        self.memory.close()
        for fd in self.fds:
            os.close(fd)


def post(body: bytes, path: str = "/models/m/invoke") -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: t\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def bodies(raw: bytes) -> list[tuple[int, bytes]]:
    """(status, body) of answers one after another, of which the last may be cut off."""
    found = []
    while b"\r\n\r\n" in raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        status = int(head[9:12])
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(raw) < length:
            break
        found.append((status, raw[:length]))
        raw = raw[length:]
    return found


LONG = bytes(range(256)) * 40
WANTED = [
    (200, b"small"),
    (200, LONG),
    (200, b"field"),
    (200, LONG * 10),
    (404, b'{"code": 404}'),
    (200, b"a"),
    (200, b"b"),
]


def serve(driven: Driven, transport: Transport, failing: Failing) -> None:
    """A request of each kind and its answer."""
    path, peer = driven.path, driven.peer
    failing(transport.protocol.connection_made, transport)
    transport.feed(failing, post(b"small"))
    peer.echo(peer.take())
    failing(path.wake)
    chunks = b"".join(b"%x\r\n%s\r\n" % (512, LONG[at : at + 512]) for at in range(0, len(LONG), 512)) + b"0\r\n\r\n"
    head = b"POST /models/m/invoke HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n"
    transport.feed(failing, head + chunks[:1000])  # the rest finds no room in the slot
    transport.feed(failing, chunks[1000:])
    peer.echo(peer.take())
    failing(path.wake)
    transport.feed(failing, post(b"field")[:50])  # a head in two pieces
    transport.feed(failing, post(b"field")[50:])
    entry = peer.take()
    peer.write(entry, entry.room, b"x-a: b\r\n")
    peer.publish(entry, offset=entry.room, fields_length=8, body_length=entry.body_length)
    failing(path.wake)
    transport.feed(failing, post(b"long"))
    entry = peer.take()
    peer.publish(entry, op=NEED, body_length=len(LONG) * 10)
    failing(path.wake)
    grant = peer.take()
    assert grant.op == GRANT
    peer.write(grant, 0, LONG * 10)
    peer.publish(grant, body_length=len(LONG) * 10)
    failing(path.wake)
    transport.feed(failing, post(b"", "/models/none/invoke"))
    transport.feed(failing, post(b"a") + post(b"b"))  # a pipeline, answered the other way round, whose worker dies
    first, second = peer.take(), peer.take()
    peer.echo(second)
    failing(path.wake)
    peer.mark_begun(first)
    failing(path.worker_down, 0)
    failing(path.worker_up, 0)
    peer.echo(peer.take())
    failing(path.wake)
    for callback in driven.loop.due:
        failing(callback)
    failing(path.sweep)
    failing(transport.protocol.connection_lost, None)


def test_should_serve_rightly_or_raise_in_a_frontend(nth):
    def scenario(failing: Failing) -> None:
        driven = Driven()
        transport = Transport(driven.path)
        died = False
        try:
            serve(driven, transport, failing)
        except MemoryError:
            died = True
        answers = bodies(transport.received())
        assert answers == WANTED[: len(answers)]
        if not died:
            assert answers == WANTED
            stats = driven.path.stats()
            assert (stats["slots_leased"], stats["incomplete_bytes"], stats["connections"]) == (0, 0, 0)
        driven.close()

    assert each_allocation(nth, scenario) > 10


def test_should_answer_rightly_or_raise_in_a_worker(nth):
    """As in worker.py what a batch raises leaves its requests to settle(), and what else is raised ends the process."""
    sent = {1: b"small", 2: b"fields", 3: b"x" * 2 * CAPACITY}

    def scenario(failing: Failing) -> None:
        end = FrontendEnd()
        for slot, body in enumerate(sent.values()):
            end.submit(slot, body[:100])
        died = False
        try:
            _, batch = failing(end.port.next_batch, False)
            with contextlib.suppress(MemoryError):
                for request, fields in zip(batch, (b"", b"x-a: b\r\n", b""), strict=True):
                    body = bytes(request.body) if len(request.body) < 100 else sent[3]
                    failing(request.reply, 200, media.JSON, body, fields)
            failing(end.port.settle, batch, MemoryError())
        except MemoryError:
            died = True
        seen = set()
        for completion in end.completions():
            assert completion.request_id not in seen, "answered twice"
            seen.add(completion.request_id)
            if completion.op == NEED:
                assert completion.body_length == 2 * CAPACITY
            elif completion.status == 200:
                assert end.body(completion) == sent[completion.request_id]
            else:
                assert (completion.status, end.body(completion)) in ((503, b"MemoryError"), (500, b""))
        assert died or seen == set(sent)
        end.close()

    assert each_allocation(nth, scenario) > 1  # few: what a request needs is kept from one to the next
