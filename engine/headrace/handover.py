"""Work that may block, done off the event loop: a thread of its own, and a bounded queue in front of it.

Invariants
1. put() never waits: what finds no room is dropped and counted.
2. Each of the two counters that say how much waits has one writer, so neither needs a lock.
"""

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from headrace import log

T = TypeVar("T")


class Handover(Generic[T]):
    """work: is called in the thread with each thing put in, in order; what it raises is logged.
    most: sizes that may wait together."""

    def __init__(self, name: str, work: Callable[[T], None], most: int) -> None:
        self.dropped = 0  # things, as put() counts them
        self._work = work
        self._most = most
        self._size_in = 0  # written by put()
        self._size_out = 0  # by the thread
        self._queue: queue.SimpleQueue[tuple[T, int] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._run, name=name, daemon=True
        )  # one that hangs keeps no process alive
        self._thread.start()

    def put(self, thing: T, size: int, count: int = 1) -> None:
        """size: in the unit of `most`; count: by how much `dropped` grows when there is no room."""
        if self._size_in - self._size_out + size > self._most:
            self.dropped += count
        else:
            self._size_in += size
            self._queue.put((thing, size))

    def close(self, timeout_s: float) -> bool:
        """Have all that waits done. False: it took longer than that, and is left."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            thing, size = item
            try:
                self._work(thing)
            except Exception:
                log.get("handover").exception("handover.broke", thread=self._thread.name)
            finally:
                self._size_out += size
