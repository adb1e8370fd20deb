"""What happened to models and why, newest last: for people who ask why one was loaded, refused or evicted.

Each record is one line in the log as well (`model.EVENT`). Kept in memory, the latest `most` only; nothing here is on a
request's way.
"""

import time
from collections import deque
from typing import TypedDict

from headrace import log

MOST = 1000  # records, of some 500 bytes each

_log = log.get("supervisor")
_ERRORS = frozenset(("failed", "refused"))


class Record(TypedDict):
    """One thing that happened; plain JSON.

    time: Unix seconds. event: loaded, reloaded, unloaded, evicted, refused (no memory), failed, replica_added or
    replica_removed. reason: in words, empty where there is nothing to say. bytes: what the model is charged, was
    charged until it was evicted, or took when it was loaded before and now was refused; 0: not known. resident_s,
    idle_s: of an eviction, how long it had been loaded and how long ago its latest request came; None: it never had
    one, or this is no eviction.
    """

    time: float
    event: str
    model: str
    reason: str
    bytes: int
    resident_s: float | None
    idle_s: float | None


class History:
    def __init__(self, most: int = MOST) -> None:
        self._records: deque[Record] = deque(maxlen=most)

    def note(
        self,
        event: str,
        model: str,
        reason: str = "",
        bytes: int = 0,
        resident_s: float | None = None,
        idle_s: float | None = None,
        **fields: object,
    ) -> None:
        """Enter a record and log it; fields: for the log only."""
        record = Record(
            time=time.time(),
            event=event,
            model=model,
            reason=reason,
            bytes=bytes,
            resident_s=resident_s,
            idle_s=idle_s,
        )
        self._records.append(record)
        told = {key: value for key, value in {**record, **fields}.items() if value not in ("", None)}
        del told["time"], told["event"]
        (_log.error if event in _ERRORS else _log.info)(f"model.{event}", **told)

    def records(self, model: str | None = None) -> list[Record]:
        """All that is remembered, or what concerns one model, oldest first."""
        return [record for record in self._records if model is None or record["model"] == model]
