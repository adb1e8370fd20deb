"""Models that kill their workers again and again are set aside for a while, so that their neighbours are served.

The board says what a worker was at when it died. A death is a model's own doing when the worker was loading or running
it and ended by itself, by a signal that a process earns (SIGSEGV, SIGABRT ...), for want of memory, or because the
watchdog found it stuck. A SIGKILL that nobody here sent comes from outside and blames nobody.

Invariants
1. A quarantined model is on no worker that was born since, and no frontend sends it anything: its requests are answered
   503, with Retry-After and the reason.
2. The frontends know of a quarantine before they hear of the death that led to it, so that none of its requests is
   delivered again.
"""

import asyncio
import signal
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from headrace import log
from headrace.children import Death
from headrace.registry import Model, Registry

# One poison request takes two workers (HEADRACE_RETRIES=1) and is answered then; a third death is the model's.
DEATHS = 3
WINDOW_S = 60.0  # deaths further apart are no series
FIRST_S = 1.0  # the first quarantine; each that follows is twice as long
LAST_S = 300.0

_log = log.get("supervisor")


@dataclass(slots=True)
class Record:
    """deaths: when, on the loop's clock; pause_s: of the last quarantine, 0: there was none."""

    deaths: deque[float] = field(default_factory=deque)
    pause_s: float = 0.0
    lifted_s: float = 0.0


class Quarantine:
    """publish, lift: tell the frontends of a model; bring it back to its workers, and then tell them."""

    def __init__(
        self,
        registry: Registry,
        publish: Callable[[Model], Awaitable[None]],
        lift: Callable[[Model], Awaitable[None]],
    ) -> None:
        self._registry = registry
        self._publish = publish
        self._lift = lift
        self._records: dict[int, Record] = {}  # by model index
        self._tasks: set[asyncio.Task[None]] = set()

    async def blame(self, worker: int, model_index: int, death: Death, is_stuck: bool) -> None:
        """Note that *worker* died while it was at that model; *is_stuck*: ended by the watchdog."""
        if death.signal == signal.SIGKILL and not death.out_of_memory and not is_stuck:
            return
        model = next((model for model in self._registry if model.index == model_index), None)
        if model is None or not model.is_routed or model.quarantine:
            return
        now_s = asyncio.get_running_loop().time()
        self._forget_gone()
        record = self._records.setdefault(model_index, Record())
        pause_s = self.judge(record, now_s)
        how = f"worker {worker} {'was stuck in it' if is_stuck else death}"
        _log.error("model.killed_worker", model=model.name, worker=worker, **death.fields())
        if not pause_s:
            return
        model.quarantine = f"its requests have ended {len(record.deaths)} workers within {WINDOW_S:.0f} s; last, {how}"
        model.quarantined_for_s = pause_s
        _log.error("model.quarantined", model=model.name, for_ms=round(1000 * pause_s), reason=model.quarantine)
        task = asyncio.create_task(self._lift_later(model, record))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await self._publish(model)

    @staticmethod
    def judge(record: Record, now_s: float) -> float:
        """Enter a death at *now_s*; returns for how many seconds the model is to be set aside, mostly 0."""
        if record.pause_s and now_s - record.lifted_s > WINDOW_S:  # calm since
            record.pause_s = 0.0
        record.deaths.append(now_s)
        while now_s - record.deaths[0] > WINDOW_S or len(record.deaths) > DEATHS:
            record.deaths.popleft()
        if not record.pause_s and len(record.deaths) < DEATHS:
            return 0.0
        record.pause_s = min(LAST_S, 2 * record.pause_s) if record.pause_s else FIRST_S
        record.lifted_s = now_s + record.pause_s
        return record.pause_s

    async def _lift_later(self, model: Model, record: Record) -> None:
        await asyncio.sleep(record.pause_s)
        model.quarantine = ""
        _log.info("model.released", model=model.name, next_for_ms=round(1000 * min(LAST_S, 2 * record.pause_s)))
        await self._lift(model)

    def _forget_gone(self) -> None:
        known = {model.index for model in self._registry}
        self._records = {index: record for index, record in self._records.items() if index in known}
