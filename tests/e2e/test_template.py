"""A real template process forks real children of ours; this process plays the supervisor."""

import asyncio
import dataclasses
import os
import select
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from headrace import control, processes
from headrace.children import Reaper, wait_for_death
from headrace.config import Config
from headrace.control_async import AsyncChannel
from headrace.errors import ConfigError, HeadraceError

# What the children run instead of headrace.worker: they say who they are, then wait for our end of the channel to go.
ENTRY = """
import os, random, signal, sys, threading, time
from headrace import processes, template
from headrace.control import Channel

def entry(control_fd, board_fd, index, config):
    import numpy
    channel = Channel(control_fd)
    channel.send({
        "op": "hello", "pid": os.getpid(), "parent": os.getppid(), "group": os.getpgid(0), "index": index,
        "board": os.readlink(f"/proc/self/fd/{board_fd}"),
        "open": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
        "title": open("/proc/self/cmdline").read().strip("\\0"), "port": config.port,
        "cpus": sorted(os.sched_getaffinity(0)), "omp": os.environ["OMP_NUM_THREADS"],
        "sigterm": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "threads": processes.thread_count(),
        "draws": [random.random(), float(numpy.random.random())],
    })
    while True:
        try:
            channel.receive()
        except EOFError:
            return

"""
MAIN = "sys.exit(template.main(3, entry))"


class Nest:
    """A template that was started, and its channel."""

    def __init__(self, reaper: Reaper, board: int, before: str = "") -> None:
        ours, theirs = control.pair()
        with theirs:
            self.pid = processes.spawn_command([sys.executable, "-c", ENTRY + before + MAIN], theirs)
        self.death = reaper.watch(self.pid)
        self.channel = AsyncChannel(ours)
        self.board = board
        self.children: list[AsyncChannel] = []

    async def start(self, **settings: Any) -> None:
        config = dataclasses.replace(Config(), template_imports=("colorsys",))
        message = {"op": "start", "config": dataclasses.replace(config, **settings).asdict(), "supervisor": os.getpid()}
        await self.channel.call(message, [self.board])

    async def fork(self, index: int, cpus: list[int] | None = None, threads: int = 1) -> tuple[int, AsyncChannel]:
        ours, theirs = control.pair()
        with theirs:
            config = dataclasses.replace(Config(), port=1234).asdict()
            message = {"op": "fork", "worker": index, "cpus": cpus, "threads": threads, "config": config}
            self.children.append(AsyncChannel(ours))
            reply = await self.channel.call(message, [theirs.fileno()])
        return reply["pid"], self.children[-1]

    def close(self) -> None:
        for channel in (self.channel, *self.children):
            channel.close()


@pytest.fixture
def run() -> Iterator[Callable[..., None]]:
    def run(script: Callable[[Nest, Reaper], Awaitable[None]], before: str = "") -> None:
        async def main() -> None:
            processes.become_subreaper()
            processes.keep_descriptors()
            reaper = Reaper()
            board = os.memfd_create("board")
            nest = Nest(reaper, board, before)
            try:
                await asyncio.wait_for(script(nest, reaper), 60)
            finally:
                nest.close()
                await asyncio.wait_for(wait_for_death(nest.death), 30)
                os.close(board)
                reaper.close()

        asyncio.run(main())

    yield run
    while True:  # whatever a failed test left: none may outlive it
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break


def test_a_worker_is_the_supervisors_child_and_has_nothing_else_of_the_template(run: Callable[..., None]) -> None:
    async def script(nest: Nest, reaper: Reaper) -> None:
        await nest.start()
        cpu = max(os.sched_getaffinity(0))
        pid, channel = await nest.fork(5, [cpu])
        watched = reaper.watch(pid)
        hello, _ = await channel.receive()
        assert hello["pid"] == hello["group"] == pid
        assert hello["parent"] == os.getpid()
        assert (hello["index"], hello["port"]) == (5, 1234)
        assert hello["title"] == "headrace: worker 5"
        assert hello["cpus"] == [cpu]
        assert hello["omp"] == "1"
        assert hello["sigterm"]
        assert hello["threads"] == 1
        assert "board" in hello["board"]
        assert len(hello["open"]) == 5  # the standard ones, the board, its channel
        assert Path(f"/proc/{nest.pid}/cmdline").read_text().strip("\0") == "headrace: template"
        channel.close()
        death = await wait_for_death(watched)
        assert death.is_clean

    run(script)


def test_workers_draw_different_random_numbers(run: Callable[..., None]) -> None:
    async def script(nest: Nest, reaper: Reaper) -> None:
        await nest.start()
        draws = []
        for index in range(4):
            _, channel = await nest.fork(index)
            draws += (await channel.receive())[0]["draws"]
        assert len(set(draws)) == 8

    run(script)


def test_a_workers_thread_pools_are_sized_after_the_fork(run: Callable[..., None]) -> None:
    async def script(nest: Nest, reaper: Reaper) -> None:
        await nest.start()
        _, channel = await nest.fork(0, None, 3)
        hello, _ = await channel.receive()
        assert hello["omp"] == "3"
        assert hello["cpus"] == sorted(os.sched_getaffinity(0))
        assert os.listdir(f"/proc/{nest.pid}/task") == [str(nest.pid)]  # the template still has one

    run(script)


def test_a_killed_worker_is_seen_by_the_supervisor_and_the_template_goes_on(run: Callable[..., None]) -> None:
    async def script(nest: Nest, reaper: Reaper) -> None:
        await nest.start()
        pid, channel = await nest.fork(0)
        await channel.receive()
        watched = reaper.watch(pid)
        os.kill(pid, signal.SIGKILL)
        assert (await wait_for_death(watched)).signal == signal.SIGKILL
        with pytest.raises(EOFError):
            await channel.receive()
        assert (await (await nest.fork(0))[1].receive())[0]["op"] == "hello"

    run(script)


def test_workers_outlive_the_template(run: Callable[..., None]) -> None:
    async def script(nest: Nest, reaper: Reaper) -> None:
        await nest.start()
        pid, channel = await nest.fork(0)
        await channel.receive()
        os.kill(nest.pid, signal.SIGKILL)
        await wait_for_death(nest.death)
        assert psutil.Process(pid).ppid() == os.getpid()
        watched = reaper.watch(pid)
        channel.close()
        assert (await wait_for_death(watched)).is_clean

    run(script)


def test_a_template_with_a_second_thread_refuses_to_fork(run: Callable[..., None]) -> None:
    async def script(nest: Nest, reaper: Reaper) -> None:
        with pytest.raises(ConfigError, match="starts a thread"):
            await nest.start()
        with pytest.raises(HeadraceError, match="the template has 2 threads"):
            await nest.fork(0)

    run(script, before="threading.Thread(target=threading.Event().wait, daemon=True).start()\n")


def test_an_import_that_fails_is_named(run: Callable[..., None]) -> None:
    async def script(nest: Nest, reaper: Reaper) -> None:
        with pytest.raises(ConfigError, match="cannot import nothing_like_it of HEADRACE_TEMPLATE_IMPORTS") as caught:
            await nest.start(template_imports=("nothing_like_it",))
        assert "Traceback" in caught.value.detail

    run(script)


SUPERVISOR = """
import dataclasses, os, signal, sys
from headrace import control, processes
from headrace.config import Config
from headrace.control import Channel

processes.become_subreaper()
ours, theirs = control.pair()
code = sys.argv[1]
pid = processes.spawn_command([sys.executable, "-c", code], theirs)
theirs.close()
template, config = Channel(ours), Config().asdict()
template.send({"op": "start", "id": 1, "config": config, "supervisor": os.getpid()}, [os.memfd_create("board")])
assert template.receive()[0]["ok"]
pids, ends = [pid], []
for index in range(3):
    ours, theirs = control.pair()
    message = {"op": "fork", "id": 2, "worker": index, "cpus": None, "threads": 1, "config": config}
    template.send(message, [theirs.fileno()])
    theirs.close()
    ends.append(Channel(ours))
    pids.append(template.receive()[0]["pid"])
    # A child that holds the channel's other end open cannot be told by its end that we are gone.
    assert ends[-1].receive()[0]["op"] == "hello"
print(*pids, flush=True)
signal.pause()
"""


def test_everything_dies_with_the_supervisor() -> None:
    deaf = ENTRY.replace("channel.receive()", "time.sleep(1000)") + MAIN
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR, deaf], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        pids = [int(word) for word in supervisor.stdout.readline().split()]
        assert len(pids) == 4
        pidfds = [os.pidfd_open(pid) for pid in pids]
        supervisor.kill()
        for pidfd in pidfds:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            assert poller.poll(30_000), "a process outlived the supervisor by 30 s"
            os.close(pidfd)
