"""Which way a load goes, so that no other model feels it, and how many go at once.

    in place   a load that is known to take a few ms: in a worker that serves others, between two of its batches
    aside      any other: in a process forked for it, which gives way to whoever serves (SCHED_BATCH); it serves once it
               is loaded, and has the model to itself (isolation "process") or is a shared worker from then on

What is known is learned. No reading of a model's code tells what its load will do, but models come in kinds: the same
code, and files of about the same size. How long a load would hold up a worker is measured by the worker that does it:
the time that it took, less what the process waited for a core.

Invariants
1. A kind counts as cheap only when it was measured in a process that had loaded nothing before: an import that one
   worker has behind it may be the whole cost in another.
2. At most HEADRACE_LOADS loads go aside at once; the others wait in the order in which they came.
"""

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator

from headrace import artifact
from headrace.errors import Conflict
from headrace.registry import Model

CHEAP_MS = 5.0  # the longest that a batch of others has to wait for a load in place; an MLP of 267 KB takes 1 ms
KINDS_MOST = 4096  # that are remembered, of some 200 bytes each

Kind = tuple[bytes, int]


class Lanes:
    """most: loads that go aside at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._under_way = 0
        self._queue: deque[tuple[Model, asyncio.Future[None]]] = deque()
        self._held_ms: OrderedDict[Kind, float] = OrderedDict()  # by the last load of each kind

    def is_cheap(self, model: Model) -> bool:
        """Whether a load of the model is known to hold up nobody."""
        kind = _kind(model)
        return kind is not None and self._held_ms.get(kind, CHEAP_MS) < CHEAP_MS

    def learn(self, model: Model, held_ms: float, is_first: bool) -> None:
        """A load held its worker up for so long; is_first: the process had loaded nothing before."""
        kind = _kind(model)
        if kind is not None and (is_first or held_ms >= CHEAP_MS):
            self._held_ms[kind] = held_ms
            self._held_ms.move_to_end(kind)
            if len(self._held_ms) > KINDS_MOST:
                self._held_ms.popitem(last=False)

    @contextlib.asynccontextmanager
    async def turn(self, model: Model) -> AsyncIterator[None]:
        """Held while the model is loaded aside. Raises Conflict when it is dismissed while it waits."""
        if self._under_way < self._most:
            self._under_way += 1
        else:
            await self._wait(model)
        try:
            yield
        finally:
            self._leave()

    def dismiss(self, model: Model) -> None:
        """The model is to be unloaded: it need not wait any more."""
        for waiting, turn in self._queue:
            if waiting is model and not turn.done():
                turn.set_exception(Conflict(f"Model {model.name} was unregistered while it waited to be loaded"))

    async def _wait(self, model: Model) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((model, turn))
        self._tell()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it had its turn in the same moment
                self._leave()
            raise
        finally:
            self._queue = deque(item for item in self._queue if item[1] is not turn)
            model.reason = ""
            self._tell()

    def _leave(self) -> None:
        """Give the place to whoever has waited longest."""
        turn = next((turn for _, turn in self._queue if not turn.done()), None)
        if turn is None:
            self._under_way -= 1
        else:
            turn.set_result(None)

    def _tell(self) -> None:
        for place, (model, _) in enumerate(self._queue):
            model.reason = (
                f"it waits until it may be loaded: {self._under_way} loads are under way (HEADRACE_LOADS="
                f"{self._most}), {place} wait before it"
            )


def _kind(model: Model) -> Kind | None:
    """None for a model whose code is too large to be read on each load."""
    if model.code is None:
        directory = model.directory or model.path
        model.code = artifact.code_digest(directory), artifact.size_bytes(directory).bit_length()
    return model.code if model.code[0] else None
