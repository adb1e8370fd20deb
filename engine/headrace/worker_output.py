"""What workers' descriptors 1 and 2 bring: lines of native code, of commands, and of a process that dies.

Models' own prints do not come this way (output.py). Each worker has a pipe, whose reader is the supervisor: so nothing
that a dying process says is lost, and a model never waits for whoever reads the server's log. What comes faster than
HEADRACE_OUTPUT_LINES a second is read, counted and dropped.
"""

import asyncio
import os
from collections.abc import Callable

from headrace import log
from headrace.config import Config
from headrace.output import Allowance, take_lines, tell_dropped, text

READ_BYTES = 64 << 10  # at once, before anything else has its turn
_LAST_READS = 16  # of a pipe whose process is dead: a pipe holds no more

_log = log.get("output")


class WorkerOutput:
    """The reading end of one worker's pipe. model_at: name of the model that the worker is at, "" for none."""

    def __init__(self, fd: int, worker: int, config: Config, model_at: Callable[[int], str]) -> None:
        self._fd = fd
        self._worker = worker
        self._config = config
        self._model_at = model_at
        self._rest = bytearray()
        self._allowance = Allowance()
        self._loop = asyncio.get_running_loop()
        self._telling: asyncio.TimerHandle | None = None
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._read)

    def close(self) -> None:
        """Say what is left, and read no more. The process is dead; what it has started loses its standard output."""
        for _ in range(_LAST_READS):
            if not self._read():
                break
        if self._rest:
            self._rest += b"\n"
            self._say()
        self._tell_dropped()
        if self._fd >= 0:
            self._end()

    def _read(self) -> bool:
        """False when there is nothing more for now."""
        try:
            data = os.read(self._fd, READ_BYTES) if self._fd >= 0 else b""
        except (BlockingIOError, InterruptedError):
            return False
        if not data:
            if self._fd >= 0:
                self._end()
            return False
        self._rest += data
        self._say()
        return True

    def _say(self) -> None:
        lines = take_lines(self._rest)
        for at, line in enumerate(lines):
            if not self._allowance.take(self._config.output_lines, self._loop.time()):
                self._allowance.missed += len(lines) - at - 1  # of a flood none is looked at any more
                if self._telling is None:
                    self._telling = self._loop.call_later(1.0, self._tell_dropped)
                return
            model = self._model_at(self._worker)
            _log.info("output", worker=self._worker, model=model, stream="fd", message=log.cut(text(line)))

    def _tell_dropped(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        if self._allowance.missed:
            tell_dropped(self._allowance, worker=self._worker, model=self._model_at(self._worker))

    def _end(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
