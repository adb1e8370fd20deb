"""The access log: a line for each request that is told of, in the form of the log's other lines.

    2026-11-24T08:00:00.123Z INFO frontend-0 access id=0b6e... method=POST path=/models/m/invoke ...

Lines are made in the frontend's loop, all of one turn at once, and written by a thread: a reader of standard error that
stalls delays no request. What does not fit into BUFFER_BYTES meanwhile is dropped; how much it was is told in a line.

Invariants
1. A line goes out in one write() of at most PIPE_BUF bytes, so lines of several processes do not mix in a pipe.
2. Nothing that a client sends breaks a line: it is quoted as in every line of the log (log.py), and bounded (note.pxi).
3. No body, no query and no header but X-Amzn-SageMaker-Target-Model is ever in it.
"""

import os
import select
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import orjson

from headrace import log
from headrace.handover import Handover

if TYPE_CHECKING:
    from headrace._frontend import Note

BUFFER_BYTES = 1 << 20  # some 4,000 lines


class AccessLog:
    """format: `text` or `json`; process: how this process calls itself in the log."""

    def __init__(self, format: str, process: str, fd: int = 2) -> None:
        self._render = _json if format == "json" else _text
        self._process = process
        self._fd = fd
        self._told = 0  # of the lines that were dropped; of the thread
        self._handover: Handover[list[bytes]] = Handover("access-log", self._write, BUFFER_BYTES)

    @property
    def dropped(self) -> int:
        """Lines that were dropped since the start."""
        return self._handover.dropped

    def tell(self, notes: Sequence["Note"]) -> None:
        """Have these requests logged."""
        offset_ns = time.time_ns() - time.monotonic_ns()
        lines = [self._render(self._process, note, offset_ns) for note in notes]
        self._handover.put(lines, sum(map(len, lines)), len(lines))

    def close(self, timeout_s: float) -> None:
        """Have what waits written, as far as that takes no longer."""
        self._handover.close(timeout_s)

    def _write(self, lines: list[bytes]) -> None:
        try:
            for piece in _pieces(lines):
                self._write_whole(memoryview(piece))
            if (dropped := self._handover.dropped) != self._told:
                lines_dropped, self._told = dropped - self._told, dropped
                log.get(self._process).warning(
                    "access_log.dropped", lines=lines_dropped, why="their reader was too slow"
                )
        except OSError:
            pass  # nobody reads any more, and there is nobody to tell

    def _write_whole(self, left: memoryview) -> None:
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:  # whoever shares standard error has made it non-blocking
                select.select((), (self._fd,), ())


def _pieces(lines: Sequence[bytes]) -> Iterator[bytes]:
    """Whole lines, as many together as go out in one."""
    start = size = 0
    for at, line in enumerate(lines):
        if size + len(line) > select.PIPE_BUF and at > start:
            yield b"".join(lines[start:at])
            start, size = at, 0
        size += len(line)
    if size:
        yield b"".join(lines[start:])


_SENT = ("path", "model", "target_model")  # fields whose text a client or a user chose


def _fields(note: "Note") -> dict[str, object]:
    """What is known of it, in the order of the line."""
    fields: dict[str, object] = {"id": note.id, "client": note.client}
    for name in ("method", "path", "model", "target_model"):
        if (value := getattr(note, name)) is not None:
            fields[name] = value
    fields["status"] = note.status
    fields["bytes_in"], fields["bytes_out"] = note.request_bytes, note.response_bytes
    if note.finished_ns:
        fields["queue_ms"] = _ms(note.taken_ns - note.whole_ns)
        fields["batch_ms"] = _ms(note.started_ns - note.taken_ns)
        fields["batch_rows"] = note.batch_rows
        fields["compute_ms"] = _ms(note.finished_ns - note.started_ns)
    if note.arrival_ns:
        fields["total_ms"] = _ms(note.sent_ns - note.arrival_ns)
    return fields


def _text(process: str, note: "Note", offset_ns: int) -> bytes:
    words = [f"{key}={log.quote(str(value)) if key in _SENT else value}" for key, value in _fields(note).items()]
    return f"{_time(note, offset_ns)} INFO {process} access {' '.join(words)}\n".encode()


def _json(process: str, note: "Note", offset_ns: int) -> bytes:
    head = {"time": _time(note, offset_ns), "level": "INFO", "process": process, "part": process, "event": "access"}
    return orjson.dumps({**head, **_fields(note)}, option=orjson.OPT_APPEND_NEWLINE)


def _time(note: "Note", offset_ns: int) -> str:
    return log.timestamp((note.sent_ns + offset_ns) / 1e9)


def _ms(ns: int) -> float:
    return round(ns / 1e6, 3)
