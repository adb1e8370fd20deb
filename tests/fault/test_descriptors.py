"""No descriptor, no memory map, no process to be had: whoever needs one is told no and tries again, nobody else
notices, and what was taken on the way is given back."""

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from headrace.children import Backoff
from tests.e2e.conftest import Server, is_alive, serving, wait_until, write_model

ECHO = """
from headrace import Model
class Echo(Model):
    def handle(self, requests):
        return [bytes(request.body) for request in requests]
"""
PATH = "/models/echo/invoke"
GIB = 1 << 30


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving() as serve:
        folder: Path = tmp_path_factory.mktemp("models")
        yield serve(write_model(folder / "echo", ECHO), HEADRACE_WORKERS="2", HEADRACE_ARENA="32MiB")


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """One that holds at the end what it held before, and serves."""
    before = shared.held()
    yield shared
    shared.check_holds_no_more_than(before)
    assert shared.post(PATH, b"[1]").body == b"[1]"


@contextlib.contextmanager
def limited(process: psutil.Process, resource: int, most: int) -> Iterator[None]:
    """*process* and those that it starts may have no more of that resource."""
    soft, hard = process.rlimit(resource)
    process.rlimit(resource, (most, hard))
    try:
        yield
    finally:
        process.rlimit(resource, (soft, hard))


def one(server: Server, title: str) -> psutil.Process:
    return server.named(title)[0]


def with_spare(process: psutil.Process, spare: int) -> contextlib.AbstractContextManager[None]:
    """*process* may have so many descriptors more; the limit is one of their numbers (getrlimit(2))."""
    used = {int(name) for name in os.listdir(f"/proc/{process.pid}/fd")}
    free = (number for number in itertools.count() if number not in used)
    return limited(process, psutil.RLIMIT_NOFILE, next(itertools.islice(free, spare, None)))


def kill(server: Server, title: str) -> None:
    """Ends a process that has lived for long enough to be replaced at once."""
    process = one(server, title)
    wait_until(lambda: time.time() - process.create_time() > Backoff.HEALTHY_S + 0.1, "time stands still")
    process.kill()
    wait_until(lambda: not is_alive(process), f"{title} does not die")


class News:
    """What the log says from now on."""

    def __init__(self, server: Server) -> None:
        self.lines, self.start = server.lines, len(server.lines)

    def says(self, *words: str) -> bool:
        return any(word in line for line in self.lines[self.start :] for word in words)


@pytest.mark.parametrize("spare", range(3))
@pytest.mark.parametrize(
    ("title", "success", "refusal"),
    [
        ("headrace: worker 0", "worker.up worker=0", "worker.not_started"),
        ("headrace: frontend 0", "frontend.up", "frontend.lost frontend=0 error="),
        ("warden.py", "", 'warden.lost reason="[Errno 24]'),
    ],
)
def test_should_start_a_successor_once_the_supervisor_has_descriptors(server, title, success, refusal, spare):
    """With 0, 1, 2 to spare each of those that it takes is once the one that is not to be had."""
    supervisor, news, old = server.family()[0], News(server), one(server, title).pid

    def has_successor() -> bool:
        return bool({process.pid for process in server.named(title)} - {old}) and news.says(success)

    with with_spare(supervisor, spare):
        kill(server, title)
        wait_until(lambda: news.says(refusal) or has_successor(), "neither a successor nor a word")
        assert spare or news.says(refusal)
        if title != "headrace: frontend 0":
            assert server.post(PATH, b"[2]").body == b"[2]"
    wait_until(has_successor, "no successor")


@pytest.mark.parametrize("spare", range(4))
def test_should_fork_a_worker_once_the_template_has_descriptors(server, spare):
    """It receives one with the order, and opens two pipes."""
    template, news, old = one(server, "headrace: template"), News(server), one(server, "headrace: worker 0").pid
    with with_spare(template, spare):
        kill(server, "headrace: worker 0")
        wait_until(lambda: news.says("worker.not_started", "template.failed"), "it is not refused")
        assert server.post(PATH, b"[2]").body == b"[2]"
    wait_until(lambda: {process.pid for process in server.named("headrace: worker 0")} - {old}, "no successor")


def test_should_start_a_worker_once_memory_can_be_mapped(server):
    """A segment is gigabytes of addresses, which a limit on them refuses."""
    template = one(server, "headrace: template")
    news = News(server)
    with limited(template, psutil.RLIMIT_AS, template.memory_info().vms + GIB // 8):
        kill(server, "headrace: worker 0")
        wait_until(lambda: news.says("mmap failed"), "the map was not refused")
        assert server.post(PATH, b"[2]").body == b"[2]"
    news = News(server)
    wait_until(lambda: news.says("worker.up worker=0"), "no successor")


def test_should_serve_those_it_has_while_no_connection_can_be_accepted(server):
    frontend = one(server, "headrace: frontend 0")
    with server.connect() as known:
        request = f"POST {PATH} HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\n[3]".encode()

        def is_served(sock: socket.socket) -> bool:
            sock.sendall(request)
            data = sock.recv(1 << 16)
            return data.startswith(b"HTTP/1.1 200 ") and data.endswith(b"[3]")

        assert is_served(known)
        with with_spare(frontend, 4), contextlib.ExitStack() as stack:
            held = frontend.num_fds()
            for _ in range(20):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            wait_until(lambda: frontend.num_fds() == held + 4, "there is room for more")
            assert all(is_served(known) for _ in range(50))
    with server.connect() as sock:
        assert is_served(sock)
