"""Logs: one line an event on standard error, `event key=value ...` as text or as one JSON object.

    2026-11-24T08:00:00.123Z INFO supervisor worker.lost worker=2 signal=SIGKILL

Invariants
1. One event is one line in one write(): lines of several processes do not mix (a pipe promises that up to 4096 bytes).
2. No value can break a line or a terminal: whatever is not printable is escaped.
3. Logging never raises, and a model that rearranges the `logging` module (dictConfig and the like) does not silence us:
   our own events go straight to the handler. Records of libraries and models come through the root logger to the same
   handler and look the same: `log logger=NAME message=TEXT`.
4. A reader that does not read holds nobody up: past STALL_MS lines are dropped, and counted where it reads again.

Levels: debug is for us, info for the operator's calm day, warning when something recovered, error when someone was
failed.
"""

import contextlib
import logging
import os
import select
import stat
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
FORMATS = ("text", "json")
Observer = Callable[[str, Mapping[str, object], Any], None]  # event, fields, exc_info
LINE_MOST = 2000  # characters of a line that is not ours
STALL_MS = 100  # that a line waits for the log's reader; while it does not read, further lines do not wait at all
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

    def at(self, level: int, event: str, /, **fields: object) -> None:
        """The same with a level of the `logging` module."""
        self._write(level, event, fields)

    def is_enabled(self, level: str) -> bool:
        """Whether *level* (one of LEVELS) is printed; to be asked before costly fields are gathered."""
        return _level_number(level) >= _handler.level

    def _write(self, level: int, event: str, fields: Mapping[str, object], exc_info: Any = None) -> None:
        if level >= logging.ERROR and _observer is not None:
            with contextlib.suppress(Exception):
                _observer(event, fields, exc_info)
        if level >= _handler.level:
            if "model" in fields and _about_model is not None:
                fields = {**fields, **_about_model()}
            record = logging.LogRecord(self._name, level, "", 0, event, None, exc_info)
            record.fields = fields
            _handler.handle(record)


class LineHandler(logging.Handler):
    """Writes each record as one line to a descriptor; what cannot be written is dropped."""

    def __init__(self, fd: int, formatter: logging.Formatter, level: int) -> None:
        super().__init__(level)
        self.fd = fd
        self.setFormatter(formatter)
        self._own = _own_end(fd)
        self._rest = b""  # of a line that was written in part
        self._is_stalled = False
        self._dropped = 0

    def __del__(self) -> None:
        if self._own >= 0:
            os.close(self._own)

    def emit(self, record: logging.LogRecord) -> None:
        is_ours = isinstance(getattr(record, "fields", None), Mapping)
        if not is_ours and _others_filter is not None and not _others_filter(record):
            return
        try:
            line = self.format(record)
        except Exception as error:  # a message and arguments that do not match, a value whose __str__ raises
            broken = logging.LogRecord(record.name, logging.ERROR, "", 0, "log.broken", None, None)
            broken.fields = {"logger": record.name, "message": repr(record.msg), "error": type(error).__name__}
            line = self.format(broken)
        if self._dropped:  # in one piece with the line, or small ones like this would fill what little room there is
            line = f"{self.format(_dropped_record(self._dropped))}\n{line}"
        self._dropped = 0 if self._put(line) else self._dropped + 1

    def _put(self, line: str) -> bool:
        """False when nothing of it could be written."""
        if self._rest and not self._flush():
            return False
        self._rest = data = line.encode("utf-8", "backslashreplace") + b"\n"
        if not self._flush() and len(self._rest) == len(data):
            self._rest = b""
            return False
        return True

    def _flush(self) -> bool:
        try:
            while self._rest:
                if self._own < 0 and not self._is_ready():
                    return False
                try:
                    self._rest = self._rest[os.write(self.fd if self._own < 0 else self._own, self._rest) :]
                except BlockingIOError:
                    if not self._is_ready():
                        return False
        except OSError:
            self._rest = b""  # there is nobody to tell
        return True

    def _is_ready(self) -> bool:
        """Whether the reader takes something, at once or, if it was reading until now, within STALL_MS."""
        poller = select.poll()
        poller.register(self.fd, select.POLLOUT)
        self._is_stalled = not poller.poll(0 if self._is_stalled else STALL_MS)
        return not self._is_stalled


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


def configure(level: str | int, format: str, process: str, fd: int | None = None) -> None:
    """Set this process's logs, its libraries' and models' records included.

    level: one of LEVELS, or a number as in `logging`; format: `text` or `json`; process: how the process calls itself,
    such as `worker-2`; fd: None for the one that it has, at first 2. May be called again, as by a worker just forked.
    Raises ValueError for unknown words.
    """
    global _handler
    if format not in FORMATS:
        raise ValueError(f"log format {format!r} is unknown; use one of {', '.join(FORMATS)}")
    number = _level_number(level)
    formatter = JsonFormatter(process) if format == "json" else TextFormatter(process)
    _handler = LineHandler(_handler.fd if fd is None else fd, formatter, number)
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if not isinstance(handler, LineHandler)]
    root.addHandler(_handler)
    root.setLevel(number)
    logging.captureWarnings(True)


def move(fd: int) -> None:
    """Have lines go to *fd* from the next configure() on."""
    _handler.fd = fd


def is_printed(level: int) -> bool:
    """Whether events of this level (of the `logging` module) are."""
    return level >= _handler.level


def filter_others(wanted: Callable[[logging.LogRecord], bool] | None) -> None:
    """Have *wanted* say whether a record that is not ours is printed; fields that it sets as record.whose are, too."""
    global _others_filter
    _others_filter = wanted


def about_model(fields: Callable[[], Mapping[str, object]] | None) -> None:
    """Have events of ours that name a model bear these fields as well."""
    global _about_model
    _about_model = fields


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


def cut(text: str) -> str:
    """*text* as what others say is printed: bounded."""
    if len(text) <= LINE_MOST:
        return text
    return f"{text[:LINE_MOST]}... and {len(text) - LINE_MOST} characters more"


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
        whose: Mapping[str, object] = getattr(record, "whose", {})
        event, fields = "log", {"logger": record.name, **whose, "message": cut(record.getMessage())}
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


def _own_end(fd: int) -> int:
    """A descriptor of the same pipe that does not block, for us alone; -1 where there is none to be had.

    O_NONBLOCK belongs to what is open rather than to a descriptor, and others share it: so a pipe is opened anew.
    """
    try:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # it may be another user's
        pass
    return -1


def _dropped_record(count: int) -> logging.LogRecord:
    record = logging.LogRecord("log", logging.WARNING, "", 0, "log.dropped", None, None)
    record.fields = {"lines": count, "why": "nobody read the log"}
    return record


_about_model: Callable[[], Mapping[str, object]] | None = None
_others_filter: Callable[[logging.LogRecord], bool] | None = None
_observer: Observer | None = None
_handler = LineHandler(2, TextFormatter(""), logging.INFO)
