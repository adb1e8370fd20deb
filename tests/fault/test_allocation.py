"""Every allocation of a frontend's and of a worker's way with a request fails once. Either the work is done all the
same, or MemoryError comes out, which ends the process: nothing is swallowed, no wrong byte goes out, and books that go
on are right. Loads are not tried like this: some allocations of CPython's own modules, of which one is made, break it.
"""

import contextlib
import gc
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from driven import Driven, Transport, bodies, post
from test_worker_end import CAPACITY, FrontendEnd
from wire import GRANT, NEED

from headrace import media

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
    transport.feed(post(b"small"), failing)
    peer.echo(peer.take())
    failing(path.wake)
    chunks = b"".join(b"%x\r\n%s\r\n" % (512, LONG[at : at + 512]) for at in range(0, len(LONG), 512)) + b"0\r\n\r\n"
    head = b"POST /models/m/invoke HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n"
    transport.feed(head + chunks[:1000], failing)  # the rest finds no room in the slot
    transport.feed(chunks[1000:], failing)
    peer.echo(peer.take())
    failing(path.wake)
    transport.feed(post(b"field")[:50], failing)  # a head in two pieces
    transport.feed(post(b"field")[50:], failing)
    entry = peer.take()
    peer.write(entry, entry.room, b"x-a: b\r\n")
    peer.publish(entry, offset=entry.room, fields_length=8, body_length=entry.body_length)
    failing(path.wake)
    transport.feed(post(b"long"), failing)
    entry = peer.take()
    peer.publish(entry, op=NEED, body_length=len(LONG) * 10)
    failing(path.wake)
    grant = peer.take()
    assert grant.op == GRANT
    peer.write(grant, 0, LONG * 10)
    peer.publish(grant, body_length=len(LONG) * 10)
    failing(path.wake)
    transport.feed(post(b"", "/models/none/invoke"), failing)
    transport.feed(post(b"a") + post(b"b"), failing)  # a pipeline, answered the other way round, whose worker dies
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
