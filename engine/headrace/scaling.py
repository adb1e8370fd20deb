"""Replicas that follow load: a model whose queue stays non-empty gets one more, one that needs fewer gives one up.

    frontends --requests under way--> Trend, one a model --> add, or drop, one replica (deployment.py)

Frontends count the requests under way at each model anyhow; they are asked LOOK_S apart, and not at all while no model
may have more replicas than it must. More of them than replicas means that some wait behind others. A model that waits
for company on purpose (docs/batching.md) has a queue only once more are under way than its batches hold.

Invariants
1. A model has `least` to `most` replicas; between them, as many as its load asked for.
2. Nobody is evicted for a replica: it comes only where the budget has room, and some to spare.
3. One change of a model at a time. What makes a replica come (a queue at LOOKS looks in a row) and what makes it go
   (one fewer would have done at every look of HEADRACE_REPLICA_IDLE) leave a wide gap: no load moves it to and fro.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from headrace.admission import Admission
from headrace.config import Config
from headrace.registry import Model, Registry, State
from headrace.workers import Workers

LOOK_S = 0.5
LOOKS = 3  # in a row at which requests waited: one burst is no load
PAUSE_S = 60.0  # after a replica that could not be loaded

Change = Callable[[Model, str], Awaitable[bool]]


@dataclass(slots=True)
class Trend:
    """behind: looks in a row at which requests waited; needed_s: the last look at which no replica could be spared."""

    needed_s: float
    behind: int = 0
    paused_until_s: float = 0.0

    def look(self, under_way: int, replicas: int, at_work: int, now_s: float, idle_s: float) -> int:
        """1: add a replica, -1: give one up, 0: leave it. at_work: requests that a replica works on at once."""
        self.behind = self.behind + 1 if under_way > replicas * at_work else 0
        if under_way > (replicas - 1) * at_work:
            self.needed_s = now_s
        change = 1 if self.behind >= LOOKS else -1 if now_s - self.needed_s >= idle_s else 0
        if change:
            self.behind, self.needed_s = 0, now_s
        return change if now_s >= self.paused_until_s else min(change, 0)


class Scaling:
    """add, drop: change a model's replicas by one, with the reason for the history; False when that did not work."""

    def __init__(
        self, config: Config, registry: Registry, workers: Workers, admission: Admission, add: Change, drop: Change
    ) -> None:
        self._config = config
        self._registry = registry
        self._workers = workers
        self._admission = admission
        self._add = add
        self._drop = drop
        self._trends: dict[int, Trend] = {}  # by model index
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Looks around until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            models = {model.index: model for model in self._registry if self._may_change(model)}
            self._trends = {index: trend for index, trend in self._trends.items() if index in models}
            if models:
                await self._admission.learn_uses()
                for model in models.values():
                    self._look(model)

    def _look(self, model: Model) -> None:
        if not self._may_change(model):  # any more
            return
        now_s = asyncio.get_running_loop().time()
        trend = self._trends.setdefault(model.index, Trend(now_s))
        replicas = len(model.residents())
        at_work = model.info.get("max_batch_size", 1) if model.info.get("gathers") else 1
        change = trend.look(model.in_flight, replicas, at_work, now_s, self._config.replica_idle_ms / 1000)
        if change > 0 and replicas < self._most(model):
            replica = "replica" if replicas == 1 else "replicas"
            why = f"{model.in_flight} requests under way at {replicas} {replica}, as at {LOOKS} looks in a row"
            self._start(self._add(model, why), trend)
        elif change < 0 and replicas > max(1, model.least):
            why = f"{replicas - 1} would have done for {self._config.replica_idle_ms / 1000:g} s"
            self._start(self._drop(model, why), trend)

    def _start(self, change: Awaitable[bool], trend: Trend) -> None:
        async def run() -> None:
            if not await change:
                trend.paused_until_s = asyncio.get_running_loop().time() + PAUSE_S

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _most(self, model: Model) -> int:
        return min(model.most, len(self._workers.ordinary())) if model.isolation == "shared" else model.most

    def _may_change(self, model: Model) -> bool:
        return (
            model.state is State.RESIDENT
            and not model.work.locked()
            and not model.quarantine
            and max(1, model.least) < self._most(model)
            and all(replica.state is State.RESIDENT for replica in model.replicas.values())
        )
