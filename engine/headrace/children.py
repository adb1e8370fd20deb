"""The supervisor's children: who ended and how, and how long to wait before the next try.

The supervisor is a subreaper and, in a container, process 1: children that it never started come to it too, and are
reaped.
"""

import asyncio
import os
import signal
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headrace import log, machine
from headrace.errors import HeadraceError
from headrace.processes import ChildExit

STRANGERS_MAX = 256  # ends of children that nobody has asked about yet

_log = log.get("supervisor")


class BootFailed(HeadraceError):
    """A process of ours could not start; a server that has none of its kind cannot go on."""

    code = "boot_failed"


@dataclass(frozen=True, slots=True)
class Death:
    """How a child ended. signal: 0 when by itself; out_of_memory: the kernel's killer has struck lately."""

    pid: int
    status: int
    signal: int
    out_of_memory: bool = False

    @property
    def is_boot_failure(self) -> bool:
        return self.signal == 0 and self.status in (ChildExit.BOOT_FAILED, ChildExit.LAYOUT_MISMATCH)

    @property
    def is_clean(self) -> bool:
        return self.signal == 0 and self.status == 0

    def fields(self) -> dict[str, object]:
        """For the log: the pid, and signal or status, with a guess where there is one."""
        if self.signal == 0:
            return {"pid": self.pid, "status": self.status}
        hint = {"hint": "out of memory?"} if self.out_of_memory else {}
        return {"pid": self.pid, "signal": signal_name(self.signal), **hint}

    def __str__(self) -> str:
        if self.signal == 0:
            return f"ended with status {self.status}"
        return f"was killed by {signal_name(self.signal)}" + (" (out of memory?)" if self.out_of_memory else "")


class Reaper:
    """Waits for every child; to be made inside the loop, in the main thread.

    on_watch, on_end: called with the pid of a child that is watched from now on, or that was reaped.
    """

    def __init__(self) -> None:
        self.on_watch: Callable[[int], None] = _ignore
        self.on_end: Callable[[int], None] = _ignore
        self._loop = asyncio.get_running_loop()
        self._watched: dict[int, asyncio.Future[Death]] = {}
        self._strangers: OrderedDict[int, Death] = OrderedDict()
        self._oom_kills = oom_kills()
        self._loop.add_signal_handler(signal.SIGCHLD, self.reap)

    def watch(self, pid: int) -> "asyncio.Future[Death]":
        """The end of our child *pid*, which may lie in the past already."""
        future: asyncio.Future[Death] = self._loop.create_future()
        death = self._strangers.pop(pid, None)
        if death is not None:
            future.set_result(death)
        else:
            self._watched[pid] = future
            self.on_watch(pid)
        return future

    def reap(self) -> None:
        """Take every child that has ended. A signal may stand for many, so this goes on until there is none."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            pid = ended.si_pid
            if pid in self._watched:
                self.kill(pid)  # what it left behind; while it is a zombie, nobody else can have its number
            _, status = os.waitpid(pid, 0)
            self._report(pid, status)

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """End a watched child and what it has started: its process group. A pid that was reaped is let be."""
        if pid in self._watched:
            for send in (os.killpg, os.kill):  # it may not have made itself the leader of a group yet
                try:
                    send(pid, number)
                except (ProcessLookupError, PermissionError):
                    pass

    def close(self) -> None:
        self._loop.remove_signal_handler(signal.SIGCHLD)

    def _report(self, pid: int, status: int) -> None:
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        is_out_of_memory = False
        if number == signal.SIGKILL:
            count = oom_kills()
            is_out_of_memory, self._oom_kills = count > self._oom_kills, count
        death = Death(pid, 0 if number else os.WEXITSTATUS(status), number, is_out_of_memory)
        future = self._watched.pop(pid, None)
        if future is not None:
            self.on_end(pid)
        if future is not None and not future.done():
            future.set_result(death)
            return
        _log.debug("child.reaped", **death.fields())
        self._strangers[pid] = death
        while len(self._strangers) > STRANGERS_MAX:
            self._strangers.popitem(last=False)


def _ignore(pid: int) -> None:
    pass


async def wait_for_death(death: "asyncio.Future[Death]") -> Death:
    """The end of a child that others wait for too: cancelling this leaves their future alone."""
    await asyncio.wait({death})
    return death.result()


def guard(task: "asyncio.Task[None]", on_fatal: Callable[[str], None]) -> None:
    """A task that must not fail, but for a bug: the server stops rather than go on without it."""

    def check(task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("supervisor.broke", detail="".join(traceback.format_exception(error)))
            on_fatal(f"a task of the supervisor broke: {error!r}")

    task.add_done_callback(check)


class Backoff:
    """Pause before a restart: doubles from FIRST_S to LAST_S; after a life of HEALTHY_S it starts over.

    HEALTHY_S is short: what dies after it has served is replaced at once, however often, for that costs milliseconds.
    It is dying at the start that must not go on as fast as it can. A model that kills is the quarantine's business.
    """

    FIRST_S = 0.05
    LAST_S = 30.0
    HEALTHY_S = 0.5

    def __init__(self) -> None:
        self._pause_s = 0.0

    def after(self, lived_s: float) -> float:
        """Seconds to wait after a process that lived *lived_s*."""
        if lived_s >= self.HEALTHY_S:
            self._pause_s = 0.0
        pause_s = self._pause_s
        self._pause_s = min(self.LAST_S, 2 * pause_s) if pause_s else self.FIRST_S
        return pause_s


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def oom_kills(root: str = "/") -> int:
    """How often the kernel's out-of-memory killer has struck in our control group; where that is not told, anywhere."""
    for version, group in machine.control_groups(root, "memory"):
        count = _counter(group / ("memory.events" if version == 2 else "memory.oom_control"))
        if count is not None:
            return count
    return _counter(Path(root, "proc/vmstat")) or 0


def _counter(path: Path) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
