"""The lifeline: a stream from the supervisor whose end has the warden kill what the supervisor leaves behind.

The parent-death signal (processes.die_with_parent) comes first, but does not reach what models start. The warden
(warden.py) needs no word of the supervisor's, for the kernel ends the stream whatever the supervisor dies of.
"""

import asyncio
import contextlib
import os
import socket
import sys
import time

from headrace import log, processes, warden
from headrace.children import Backoff, Death, Reaper

MARK = "_HEADRACE_LIFELINE"  # in the environment of all that we start; a server that a model started adds its own
CLOSE_S = 3.0  # longer than the warden goes on (warden.WITHIN_S)

_log = log.get("supervisor")


class Lifeline:
    """Keeps a warden for as long as the server runs, and tells it of every child that *reaper* watches."""

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper
        self._token = os.urandom(8).hex()
        self._groups: set[int] = set()
        self._stream: socket.socket | None = None
        self._pid = 0
        self._started_s = 0.0
        self._backoff = Backoff()
        self._timer: asyncio.TimerHandle | None = None
        os.environ[MARK] = f"{os.environ.get(MARK, '')}{self._token}."
        os.environ["SPT_NOENV"] = "1"  # a process's title must not be written over the environment that it shows
        reaper.on_watch, reaper.on_end = self._add, self._remove
        self._start()

    def close(self) -> None:
        """Have the warden end what is left, and wait for it. The reaper must be closed already."""
        if self._timer is not None:
            self._timer.cancel()
        if self._stream is not None:
            self._stream.close()
            self._stream = None
            until_s = time.monotonic() + CLOSE_S
            with contextlib.suppress(ChildProcessError):  # reaped already
                while os.waitpid(self._pid, os.WNOHANG)[0] == 0 and time.monotonic() < until_s:
                    time.sleep(0.001)

    def _start(self) -> None:
        self._timer = None
        self._started_s = asyncio.get_running_loop().time()
        command = [sys.executable, "-I", "-S", warden.__file__, self._token]
        with contextlib.ExitStack() as undo:
            try:
                ours, theirs = socket.socketpair()
                undo.callback(ours.close)
                ours.setblocking(False)
                ours.send(b"".join(b"+%d\n" % pid for pid in self._groups))  # first: we may not live to see it started
                with theirs:
                    self._pid = processes.spawn_command(command, theirs)
            except OSError as error:
                self._again(error)
                return
            undo.pop_all()
        self._stream = ours
        self._reaper.watch(self._pid).add_done_callback(self._on_death)

    def _on_death(self, death: "asyncio.Future[Death]") -> None:
        if self._stream is not None and not death.cancelled():
            self._stream.close()
            self._stream = None
            self._again(death.result())

    def _again(self, reason: object) -> None:
        loop = asyncio.get_running_loop()
        pause_s = self._backoff.after(loop.time() - self._started_s)
        _log.warning("warden.lost", reason=str(reason), restart_in_ms=round(1000 * pause_s))
        self._timer = loop.call_later(pause_s, self._start)

    def _add(self, pid: int) -> None:
        self._groups.add(pid)
        self._tell(b"+%d\n" % pid)

    def _remove(self, pid: int) -> None:
        self._groups.discard(pid)
        self._tell(b"-%d\n" % pid)

    def _tell(self, line: bytes) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError):  # it has died, and its successor is told all
                self._stream.send(line)
