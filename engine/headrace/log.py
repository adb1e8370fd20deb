"""Logs: one line an event on standard error, `event key=value ...` as text or as one JSON object.

    2026-11-24T08:00:00.123Z INFO supervisor worker.lost worker=2 signal=SIGKILL

Invariants
1. One event is one line in one write(): lines of several processes do not mix (a pipe promises that up to 4096 bytes).
2. No value can break a line or a terminal: whatever is not printable is escaped.
3. Logging never raises, and a model that rearranges the `logging` module (dictConfig and the like) does not silence us:
   our own events go straight to the handler. Records of libraries and models come through the root logger to the same
   handler and look the same: `log logger=NAME message=TEXT`.

Levels: debug is for us, info for the operator's calm day, warning when something recovered, error when someone was
failed.
"""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
FORMATS = ("text", "json")
Observer = Callable[[str, Mapping[str, object], Any], None]  # event, fields, exc_info
_RESERVED = frozenset(("time", "level", "process", "part", "event"))


class Log:
    """The log of one part: `log.info("worker.lost", worker=2)`. Values may be of any type; units end names."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, event: str, /, **fields: object) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """error() with the traceback of the exception being handled, under `traceback`."""
        self._write(logging.ERROR, event, fields, sys.exc_info())

    def is_enabled(self, level: str) -> bool:
        """Whether *level* (one of LEVELS) is printed; to be asked before costly fields are gathered."""
        return _level_number(level) >= _handler.level

    def _write(self, level: int, event: str, fields: Mapping[str, object], exc_info: Any = None) -> None:
        if level >= logging.ERROR and _observer is not None:
            with contextlib.suppress(Exception):
                _observer(event, fields, exc_info)
        if level >= _handler.level:
            record = logging.LogRecord(self._name, level, "", 0, event, None, exc_info)
            record.fields = fields
            _handler.handle(record)


class LineHandler(logging.Handler):
    """Writes each record as one line to a descriptor; what cannot be written is dropped: there is nobody to tell."""

    def __init__(self, fd: int, formatter: logging.Formatter, level: int) -> None:
        super().__init__(level)
        self.fd = fd
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # a message and arguments that do not match, a value whose __str__ raises
            broken = logging.LogRecord(record.name, logging.ERROR, "", 0, "log.broken", None, None)
            broken.fields = {"logger": record.name, "message": repr(record.msg), "error": type(error).__name__}
            line = self.format(broken)
        left = memoryview(line.encode("utf-8", "backslashreplace") + b"\n")
        try:
            while left:
                left = left[os.write(self.fd, left) :]
        except OSError:
            pass


class TextFormatter(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def format(self, record: logging.LogRecord) -> str:
        event, fields = _event(record)
        words = [timestamp(record.created), record.levelname, quote(self.process or record.name), quote(event)]
        words += [f"{quote(key)}={quote(_text(value))}" for key, value in fields.items()]
        return " ".join(words)


class JsonFormatter(logging.Formatter):
    """Keys: time, level, process, part, event, then the fields; a field that bears one of these names gets a `_`."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def format(self, record: logging.LogRecord) -> str:
        event, fields = _event(record)
        line: dict[str, object] = {
            "time": timestamp(record.created),
            "level": record.levelname,
            "process": self.process or record.name,
            "part": record.name,
            "event": event,
        }
        line.update((f"{key}_" if key in _RESERVED else key, value) for key, value in fields.items())
        try:
            return orjson.dumps(line, default=_text).decode()
        except orjson.JSONEncodeError:  # half a surrogate pair, an integer past 64 bits, a container that holds itself
            safe = {_utf8(key): _utf8(_text(value)) for key, value in line.items()}
            return orjson.dumps(safe).decode()


def get(name: str) -> Log:
    """The log of the part *name* (`supervisor`, `loaders` ...). Usable before configure(): then INFO and text."""
    return Log(name)


def configure(level: str | int, format: str, process: str, fd: int = 2) -> None:
    """Set this process's logs, its libraries' and models' records included.

    level: one of LEVELS, or a number as in `logging`; format: `text` or `json`; process: how the process calls itself,
    such as `worker-2`. May be called again, as by a worker just forked. Raises ValueError for unknown words.
    """
    global _handler
    if format not in FORMATS:
        raise ValueError(f"log format {format!r} is unknown; use one of {', '.join(FORMATS)}")
    number = _level_number(level)
    formatter = JsonFormatter(process) if format == "json" else TextFormatter(process)
    _handler = LineHandler(fd, formatter, number)
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if not isinstance(handler, LineHandler)]
    root.addHandler(_handler)
    root.setLevel(number)
    logging.captureWarnings(True)


def set_level(level: str | int) -> None:
    """Have this process print from *level* on, its libraries' and models' records included; as configure() takes it."""
    number = _level_number(level)
    _handler.setLevel(number)
    logging.getLogger().setLevel(number)


def observe(observer: Observer | None) -> None:
    """Have *observer* told of each event of level ERROR, besides its being printed; None: nobody."""
    global _observer
    _observer = observer


def text(value: object) -> str:
    """*value* as a line of text has it."""
    return _text(value)


def timestamp(seconds: float) -> str:
    """A time since the epoch as lines of the log have it, in UTC."""
    ms = int(seconds * 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000)) + f".{ms % 1000:03d}Z"


def quote(text: str) -> str:
    """*text* as it is when it is one plain word; else in double quotes, with whatever is not printable escaped."""
    if text and text.isprintable() and not any(char in text for char in ' "=\\'):
        return text
    return '"' + "".join(map(_escape, text)) + '"'


def _escape(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else char.encode("unicode_escape").decode("ascii")


def _event(record: logging.LogRecord) -> tuple[str, dict[str, object]]:
    """Event and fields of a record of ours or of anybody's."""
    ours: Mapping[str, object] | None = getattr(record, "fields", None)
    if isinstance(ours, Mapping):
        event, fields = str(record.msg), dict(ours)
    else:
        event, fields = "log", {"logger": record.name, "message": record.getMessage()}
    if record.exc_info and record.exc_info[0] is not None:
        fields["traceback"] = logging.Formatter().formatException(record.exc_info)
    return event, fields


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(round(value, 6))
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value))
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}" if str(value) else type(value).__name__
    return str(value)


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _level_number(level: str | int) -> int:
    if isinstance(level, int):
        return level
    if level.upper() not in LEVELS:
        raise ValueError(f"log level {level!r} is unknown; use one of {', '.join(LEVELS)}")
    return int(getattr(logging, level.upper()))


_observer: Observer | None = None
_handler = LineHandler(2, TextFormatter(""), logging.INFO)
