"""The last errors of each model, with their tracebacks, for whoever asks why it failed (/models/NAME/explain).

    worker       log event of level ERROR that names a model -> Reporter -> "error" message on the control channel
    supervisor   such messages, and such events of its own   -> LastErrors

Nothing but the log decides what an error is: what is kept here stands in the log as well.

Invariants
1. Bounded: MODELS_MOST models, KEPT errors each, TEXT_MOST characters each. Equal errors are one, with a count.
2. A model that fails at every request costs its worker PER_S messages a second at most.
3. Records are plain text of bounded length whatever a worker sends: workers run user code.
"""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from headrace import log

MODELS_MOST = 256
KEPT = 8
TEXT_MOST = 4096
BURST, PER_S = 8, 4.0  # messages about one model that a worker sends
_BUCKETS_MOST = 1024
_WORDS = ("event", "error", "request", "traceback")
_APART = frozenset(("model", "error", "reason", "request", "requests", "traceback", "detail"))


class Record(TypedDict):
    """time: Unix seconds, of the latest. worker: None where the supervisor met it. request: id of the latest, or "".
    count: how often at least; what came too fast to be told of one by one is counted when the next is told of."""

    time: float
    event: str
    worker: int | None
    error: str
    request: str
    traceback: str
    count: int


class LastErrors:
    """By model name, so that what is known of a model outlives its failure to load."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, deque[Record]] = OrderedDict()

    def observe(self, event: str, fields: Mapping[str, object], exc_info: Any) -> None:
        """For log.observe() in the supervisor."""
        said = describe(event, fields, exc_info)
        if said is not None:
            self.note(None, said)

    def note(self, worker: int | None, said: Mapping[str, object]) -> None:
        """Enter what describe() said, here or in a worker."""
        event, error, request, trace = (_text(said.get(word)) for word in _WORDS)
        missed = said.get("missed")
        count = 1 + (missed if isinstance(missed, int) and 0 < missed < 1 << 53 else 0)
        kept = self._models.setdefault(_text(said.get("model")), deque(maxlen=KEPT))
        self._models.move_to_end(_text(said.get("model")))
        if len(self._models) > MODELS_MOST:
            self._models.popitem(last=False)
        for known in kept:
            if (known["event"], known["error"]) == (event, error):
                kept.remove(known)
                count += known["count"]
                trace = trace or known["traceback"]
                break
        kept.append(
            Record(
                time=time.time(), event=event, worker=worker, error=error, request=request, traceback=trace, count=count
            )
        )

    def of(self, model: str) -> list[Record]:
        """The latest first."""
        return list(reversed(self._models.get(model, ())))


class Reporter:
    """Passes a worker's errors on. send: puts a message on the control channel, of the thread that makes this."""

    def __init__(self, send: Callable[[dict[str, Any]], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._send = send
        self._clock = clock
        self._thread = threading.get_ident()
        self._buckets: dict[str, tuple[float, float]] = {}  # model -> (messages it may send, when that was computed)
        self._missed: dict[str, int] = {}

    def observe(self, event: str, fields: Mapping[str, object], exc_info: Any) -> None:
        """For log.observe()."""
        name = fields.get("model")
        if not isinstance(name, str) or threading.get_ident() != self._thread:
            return
        now_s = self._clock()
        left, then_s = self._buckets.get(name, (float(BURST), now_s))
        left = min(BURST, left + (now_s - then_s) * PER_S)
        if len(self._buckets) >= _BUCKETS_MOST:
            self._buckets.clear()
            self._missed.clear()
        self._buckets[name] = (max(0.0, left - 1), now_s) if left >= 1 else (left, now_s)
        if left < 1:
            self._missed[name] = self._missed.get(name, 0) + 1
        elif (said := describe(event, fields, exc_info)) is not None:
            try:
                self._send({"op": "error", **said, "missed": self._missed.pop(name, 0)})
            except OSError:
                pass  # the supervisor is gone, and so is this worker in a moment


def describe(event: str, fields: Mapping[str, object], exc_info: Any) -> dict[str, Any] | None:
    """What a log event says about a model: its name, event, error, request, traceback; None when it names no model."""
    name = fields.get("model")
    if not isinstance(name, str):
        return None
    trace = fields.get("traceback") or fields.get("detail") or ""
    if not trace and exc_info and exc_info[0] is not None:
        trace = logging.Formatter().formatException(exc_info)
    error = fields.get("error") or fields.get("reason")
    if error is None and isinstance(trace, str) and trace:
        error = trace.rstrip().rpartition("\n")[2]
    if error is None:
        error = " ".join(f"{key}={log.text(value)}" for key, value in fields.items() if key not in _APART)
    request = fields.get("request") or fields.get("requests") or ""
    said = {"event": event, "error": log.text(error), "request": log.text(request), "traceback": log.text(trace)}
    return {"model": name, **{word: _text(value) for word, value in said.items()}}


def _text(value: object) -> str:
    """At most TEXT_MOST characters; of a longer text the end, where a traceback has its exception."""
    text = value if isinstance(value, str) else ""
    return text if len(text) <= TEXT_MOST else "..." + text[3 - TEXT_MOST :]
