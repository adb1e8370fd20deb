"""What models print and log, as events of the log: whose it is, no more of it than is wanted, and no wait for a reader.

    print, sys.stdout, sys.stderr   Lines           -> `output model=NAME stream=stdout message=LINE`
    logging                         Capture.filter  -> `log logger=NAME model=NAME message=TEXT`
    descriptors 1 and 2             a pipe          -> the supervisor (worker_output.py) -> `output stream=fd ...`

The first two know which model runs. The pipe has what native code and commands write, and the last words of a process
that dies: so its reader is another process.

Levels are Multi Model Server's: what comes on standard output is INFO, on standard error WARNING.
"""

import contextlib
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from headrace import log

_BURST_S = 1.0  # a model that was silent may say a second's worth at once
_MODELS_MOST = 1024

_TARGET = "x-amzn-sagemaker-target-model"

_log = log.get("output")


class Request(Protocol):
    """What is to be known of one here."""

    @property
    def headers(self) -> Mapping[str, str]: ...


class Allowance:
    """How many lines may still be said: *per_s* a second, and as many at once after a silence."""

    __slots__ = ("_left", "_then_s", "missed")

    def __init__(self) -> None:
        self._left = -1.0
        self._then_s = 0.0
        self.missed = 0  # since they were told of

    def take(self, per_s: int, now_s: float) -> bool:
        most = per_s * _BURST_S
        self._left = most if self._left < 0 else min(most, self._left + (now_s - self._then_s) * per_s)
        self._then_s = now_s
        if self._left < 1:
            self.missed += 1
            return False
        self._left -= 1
        return True


class Capture:
    """A worker's. model: the one that runs now, or ran last; requests: those that it runs, () between two batches.
    per_s: lines a second that a model may say."""

    def __init__(self, per_s: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self.model = ""
        self.requests: Sequence[Request] = ()
        self._per_s = per_s
        self._clock = clock
        self._allowances: dict[str, Allowance] = {}
        self._told_s = 0.0
        self._has_missed = False

    def install(self) -> None:
        """Put Lines in the place of this process's standard streams, and watch what goes through `logging`."""
        sys.stdout = _text_stream(Lines(self, "stdout", logging.INFO, 1))
        sys.stderr = _text_stream(Lines(self, "stderr", logging.WARNING, 2))
        log.filter_others(self.filter)
        log.about_model(self.target)

    def say(self, stream: str, level: int, line: str) -> None:
        if log.is_printed(level) and self._may_say():
            _log.at(level, "output", model=self.model, stream=stream, message=log.cut(line))

    def filter(self, record: logging.LogRecord) -> bool:
        """Of a record that is not ours: whose it is, and whether it may be said."""
        record.whose = {**({"model": self.model} if self.model else {}), **self.target()}
        return self._may_say()

    def target(self) -> dict[str, str]:
        """The model's name as SageMaker's clients know it, where the platform says it: it loads models under others."""
        for request in self.requests:
            with contextlib.suppress(RuntimeError):  # it is answered already, unlike others of its batch
                if name := request.headers.get(_TARGET):
                    return {"target_model": log.cut(name)}
        return {}

    def _may_say(self) -> bool:
        now_s = self._clock()
        if self.model not in self._allowances:
            if len(self._allowances) >= _MODELS_MOST:
                self._allowances.clear()
            self._allowances[self.model] = Allowance()
        may = self._allowances[self.model].take(self._per_s(), now_s)
        if not may:
            self._has_missed = True
        if self._has_missed:
            self.tell_missed()
        return may

    def tell_missed(self) -> None:
        """Once a second, how many lines were not said. To be called now and then, for a model that has gone silent."""
        now_s = self._clock()
        if not self._has_missed or now_s - self._told_s < 1:
            return
        self._told_s, self._has_missed = now_s, False
        for model, allowance in self._allowances.items():
            if allowance.missed:
                tell_dropped(allowance, model=model)


class Lines(io.RawIOBase):
    """The bottom of a text stream: whole lines go into the log; what follows the last line end waits for the next."""

    def __init__(self, capture: Capture, stream: str, level: int, fd: int) -> None:
        super().__init__()
        self.name = f"<{stream}>"
        self._capture = capture
        self._stream = stream
        self._level = level
        self._fd = fd
        self._rest = bytearray()
        self._lock = threading.RLock()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """The descriptor itself, for commands that are to inherit it."""
        return self._fd

    def write(self, data: Any) -> int:
        with self._lock:
            self._rest += data
            for line in take_lines(self._rest):
                self._capture.say(self._stream, self._level, text(line))
        return len(data)

    def end(self) -> None:
        """Say what waits for a line end."""
        if self._rest:
            self._capture.say(self._stream, self._level, text(bytes(self._rest)))
            self._rest.clear()


def take_lines(data: bytearray) -> list[bytes]:
    """The whole lines in *data* that are not blank; it keeps the rest. A piece longer than any line may be is one."""
    *lines, rest = bytes(data).split(b"\n")
    if len(rest) > 4 * log.LINE_MOST:  # bytes of as many characters
        lines.append(rest)
        rest = b""
    data[:] = rest
    return [line for line in lines if line.strip()]


def text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")


def tell_dropped(allowance: Allowance, **whose: object) -> None:
    _log.warning("output.dropped", **whose, lines=allowance.missed, why="more than HEADRACE_OUTPUT_LINES a second")
    allowance.missed = 0


def divert(fd: int) -> None:
    """Have descriptors 1 and 2 lead into *fd*, which is closed, and the log to where 2 led before."""
    log.move(os.dup(2))
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def flush() -> None:
    """Say what the standard streams hold, whole line or not."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        lines = getattr(stream, "buffer", None)
        if isinstance(lines, Lines):
            lines.end()


def _text_stream(lines: Lines) -> io.TextIOWrapper:
    return io.TextIOWrapper(lines, "utf-8", "backslashreplace", write_through=True)
