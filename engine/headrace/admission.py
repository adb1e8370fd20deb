"""Who may be loaded: makes room in the budget by eviction, or refuses before any harm; corrects the books each second.

    admit -> load -> settle (or cancel)          one admission at a time, in the order in which they were asked for

Invariants
1. A load begins only with a reservation that fits; what it really took is charged when it ends.
2. Nothing is evicted for a load that would not fit even so.
3. Evictions happen within an admission or a correction, never two at once: a model that is being evicted cannot be
   admitted again before it is gone.
"""

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from headrace import artifact, eviction, footprint, log, machine
from headrace.budget import Budget, Reservation
from headrace.config import Config
from headrace.errors import OutOfMemory
from headrace.frontends import Frontends
from headrace.registry import Model, Registry, State
from headrace.shared_weights import SharedWeights
from headrace.units import about_size
from headrace.workers import Worker, Workers

LOOK_S = 1.0
WAIT_S = 10.0  # that an admission waits for models that are busy now, when they would make room
RECYCLE_S = 60.0  # between two recyclings of one worker
RECYCLE_LEAST = 32 << 20  # bytes beyond its models for which a worker is recycled at all
RENEW_LEAST = 4 << 20  # bytes that models have left in a worker which has none any more: then it is recycled, too
POLL_S = 0.02  # between looks while it waits
MARGIN_SHARE = (
    0.02  # of the capacity, freed beyond what is needed: an eviction's garbage collection serves several loads
)
SPARE_SHARE = 0.1  # of the capacity, left free by replicas that follow load: loads to come need no eviction for them
# What a model takes beyond its files before anything is known: its namespace and module objects (10-13 KiB measured),
# and for a process of its own what it writes to of the template's pages (5.7-11.3 MB measured after 1,000 predictions).
NAMESPACE_BYTES = 64 << 10
PROCESS_BYTES = 12 << 20
CHARGE_LEAST = 8 << 10  # no model is free, whatever the counters of the kernel round to
FACTOR_LEAST, FACTOR_MOST = 1.0, 4.0  # of a model's memory to the size of its files, as far as it is believed

Evict = Callable[[Sequence[Model], str], Awaitable[None]]
Recycle = Callable[[Worker], Awaitable[None]]

_log = log.get("supervisor")


@dataclass(frozen=True, slots=True)
class Outlook:
    """needed_bytes: that a load would reserve; free_bytes: now; most_bytes: what models can have at most;
    artifact_bytes: of the model's files; victims: what would be evicted, in this order."""

    needed_bytes: int
    free_bytes: int
    most_bytes: int
    artifact_bytes: int
    victims: list[Model]


class Admission:
    """evict: takes models from their workers and keeps them registered; its second argument says why. recycle: has a
    worker's process followed by a fresh one."""

    def __init__(
        self,
        config: Config,
        registry: Registry,
        workers: Workers,
        frontends: Frontends,
        board_fd: int,
        evict: Evict,
        recycle: Recycle,
    ) -> None:
        self.budget = Budget(config.memory_budget_bytes)
        self.weights = SharedWeights(self.budget)
        self.counts: Counter[str] = Counter()  # evictions by reason, refusals, recyclings
        self._config = config
        self._registry = registry
        self._workers = workers
        self._frontends = frontends
        self._board_fd = board_fd
        self._evict = evict
        self._recycle = recycle
        self._recycled_s: dict[int, float] = {}  # by worker: when
        self._bare: dict[int, int] = {}  # by pid: the least that a shared worker was measured at, as when it came up
        self._empty: set[int] = set()  # pids of shared workers without models at the last look
        self._footprints = footprint.Footprints()
        self._lock = asyncio.Lock()
        self._factor = FACTOR_LEAST
        self._is_warned = False
        self._adding = 0  # replicas for which nobody is evicted

    async def run(self) -> None:
        """Corrects the books until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.measure()
            await self._renew_one()
            if self.budget.free_bytes >= 0:
                self._is_warned = False
            elif not self._lock.locked() and not self._adding:
                async with self._lock:
                    await self._correct()

    async def admit(self, model: Model, count: int, extra: bool = False) -> list[Reservation]:
        """Room for *count* replicas, each with an extra worker if so said. Raises OutOfMemory, with what is needed and
        what is free."""
        async with self._lock:
            needs = [each + extra * PROCESS_BYTES for each in self._estimates(model, count)]
            await self._make_room(model, sum(needs))
            return [self.budget.reserve(each) for each in needs]

    def spare(self, model: Model, extra: bool = False) -> Reservation | None:
        """Room for one more replica, where that leaves some free; None where nobody should go for it."""
        each = self._estimate(model, is_first=False) + extra * PROCESS_BYTES
        if self._lock.locked() or each + int(SPARE_SHARE * self.budget.capacity_bytes) > self.budget.free_bytes:
            return None
        reservation = self.budget.reserve(each)
        reservation.may_evict = False
        return reservation

    @contextlib.contextmanager
    def adding(self) -> Iterator[None]:
        """While a replica comes for which nobody is evicted, even if more is used than should be: then it goes."""
        self._adding += 1
        try:
            yield
        finally:
            self._adding -= 1

    def could_fit(self, model: Model, count: int) -> bool:
        """Whether an empty server would have room for so many replicas and as many extra workers."""
        return sum(self._estimates(model, count)) + count * PROCESS_BYTES <= self.budget.empty_bytes

    def again(self, model: Model) -> Reservation:
        """Room for a replica that has just given it up elsewhere."""
        return self.budget.insist(self._estimate(model))

    async def settle(
        self, reservation: Reservation, model: Model, worker: Worker, grown_bytes: int, mapped_bytes: int
    ) -> None:
        """The replica is loaded: its worker has grown by so much, and has so much of the model's files mapped.

        Raises OutOfMemory when that is too much.
        """
        charge = needs = max(CHARGE_LEAST, grown_bytes)
        if worker.owner:  # its end gives back all that its process has
            charge = max(CHARGE_LEAST, self._footprints.of_worker(worker.pid))
            needs = needs if worker.is_extra else charge
        estimate = reservation.bytes
        common = self.budget.shared_of(model.index)
        model.shared_bytes = self.weights.settle(model, mapped_bytes)
        self.budget.settle(reservation, model.index, charge)
        self._learn(model, needs)
        model.loaded_ns = time.monotonic_ns()
        if charge + model.shared_bytes - common > estimate and self.budget.free_bytes < 0:
            async with self._lock:
                self.measure()
                if not reservation.may_evict and self.budget.free_bytes < 0:
                    raise self._refusal(model, 0, "and no other model is evicted for a further replica")
                await self._make_room(model, 0)

    def cancel(self, reservations: Sequence[Reservation]) -> None:
        """Give up the room of loads that failed; those that were settled keep theirs."""
        for reservation in reservations:
            self.budget.cancel(reservation)

    async def outlook(self, model: Model) -> "Outlook":
        """What admit() of the model's replicas would do now. Nothing is changed."""
        self.measure()
        budget = self.budget
        needed = sum(self._estimates(model, max(1, model.least)))
        missing = needed - budget.free_bytes
        can_fit = needed <= budget.empty_bytes
        victims = await self._choose(missing, model) if missing > 0 and can_fit else []
        return Outlook(needed, budget.free_bytes, budget.empty_bytes, artifact.size_bytes(model.path), victims)

    def metrics(self) -> dict[str, int]:
        """For metrics.exposition()."""
        budget = self.budget
        return {
            "limit_bytes": budget.limit_bytes,
            "used_bytes": budget.used_bytes,
            "measured_bytes": budget.measured_bytes,
            "charged_bytes": budget.charged_bytes,
            "reserved_bytes": budget.reserved_bytes,
            "evictions_room": self.counts["evictions_room"],
            "evictions_over_budget": self.counts["evictions_over_budget"],
            "refusals": self.counts["refusals"],
            "recyclings": self.counts["recyclings"],
        }

    def restore(self, model: Model, worker: int) -> Reservation:
        """Room for a replica that its worker's successor has to have, whether or not there is."""
        reservation = self.budget.insist(self._estimate(model))
        self.budget.place(reservation, worker)
        return reservation

    def measure(self) -> None:
        """Bring the books up to date with what processes and shared memory really take."""
        workers = {
            worker.index: worker.pid for worker in self._workers.by_index.values() if worker.is_up and worker.pid
        }
        pids = [os.getpid(), *(frontend.pid for frontend in self._frontends.live.values() if frontend.pid)]
        if self._workers.template_pid:
            pids.append(self._workers.template_pid)
        memfds = [self._board_fd, *(frontend.segment for frontend in self._frontends.live.values())]
        others = footprint.of_others(pids, memfds)
        measured = self._footprints.of_workers(workers)
        self.weights.measure()
        self.budget.measure(measured, others)
        shared = {worker.pid: measured[worker.index] for worker in self._workers.shared() if worker.index in measured}
        self._bare = {pid: min(bytes, self._bare.get(pid, bytes)) for pid, bytes in shared.items()}
        # What strangers in the container hold is not ours to give away either.
        headroom = machine.memory_headroom_bytes()
        if headroom is not None and headroom < self.budget.free_bytes:
            self.budget.measure(measured, others + self.budget.free_bytes - headroom)

    async def learn_uses(self) -> None:
        """Ask the frontends which models had requests since they were last asked, and which have some under way."""
        replies = await self._frontends.broadcast({"op": "uses"})
        under_way: Counter[int] = Counter()
        for reply in replies.values():
            for index, used_ns, in_flight in reply.get("uses") or ():
                used = self._registry.find(index)
                if used is not None:
                    used.used_ns = max(used.used_ns, used_ns)
                    under_way[index] += in_flight
        for model in self._registry:
            model.in_flight = under_way[model.index]

    def _estimates(self, model: Model, count: int) -> list[int]:
        return [self._estimate(model, is_first=i == 0) for i in range(count)]

    def _estimate(self, model: Model, is_first: bool = True) -> int:
        """What a replica will take; the first one brings what all have in common."""
        if model.needs_bytes:
            return model.needs_bytes + (model.shared_bytes if is_first and not self.weights.has(model) else 0)
        extra = PROCESS_BYTES if model.isolation == "process" else NAMESPACE_BYTES
        return extra + int(self._factor * artifact.size_bytes(model.directory or model.path))

    def _learn(self, model: Model, charge: int) -> None:
        """Take note of how much a model takes for the size of its files; small ones say little about that."""
        if not model.needs_bytes:
            size = artifact.size_bytes(model.directory or model.path)
            if size >= 1 << 20:
                ratio = min(FACTOR_MOST, max(FACTOR_LEAST, (charge + model.shared_bytes) / size))
                self._factor += (ratio - self._factor) / 8
        model.needs_bytes = (model.needs_bytes + charge) // 2 if model.needs_bytes else charge

    async def _make_room(self, model: Model, needed: int) -> None:
        """Have *needed* bytes free, without evicting *model* itself. Raises OutOfMemory.

        needed: 0 when the model is loaded already; then no worker is recycled, for it may be its own.
        """
        budget = self.budget
        if needed <= budget.free_bytes:
            return
        self.measure()
        if needed > budget.empty_bytes:
            raise self._refusal(model, needed, self._at_most())
        until_s = asyncio.get_running_loop().time() + WAIT_S
        while needed > budget.free_bytes:
            missing = needed - budget.free_bytes
            victims = await self._choose(missing, model)
            if victims:
                await self._evict(victims, f"to make room for {model.name}")
                self.counts["evictions_room"] += len(victims)
                self.measure()
            elif needed and (self._is_recycling() or await self._recycle_one(missing)):
                await asyncio.sleep(POLL_S)
                self.measure()
            elif self._config.eviction == "none":
                raise self._refusal(model, needed, "and HEADRACE_EVICTION=none evicts no other model")
            elif needed > budget.empty_bytes:  # the processes themselves have grown meanwhile
                raise self._refusal(model, needed, self._at_most())
            elif not self._may_change(model) or asyncio.get_running_loop().time() >= until_s:
                raise self._refusal(model, needed, "and no other model is idle and may be evicted")
            else:
                await asyncio.sleep(POLL_S)
                self.measure()

    async def _correct(self) -> None:
        """More is used than should be: evict what is idle until it fits, and say so once where that is not enough."""
        missing = -self.budget.free_bytes
        victims = await self._choose(missing, None)
        if victims:
            await self._evict(victims, "the memory budget was exceeded")
            self.counts["evictions_over_budget"] += len(victims)
            self.measure()
        if self.budget.free_bytes < 0 and await self._recycle_one(-self.budget.free_bytes):
            return
        if self.budget.free_bytes < 0 and not self._is_warned and not self._is_recycling():
            self._is_warned = True
            _log.warning(
                "memory.over_budget",
                measured_bytes=self.budget.measured_bytes,
                charged_bytes=self.budget.charged_bytes,
                budget_bytes=self.budget.limit_bytes,
            )

    async def _recycle_one(self, missing: int) -> bool:
        """Have the shared worker recycled that holds the most beyond its models, if that frees *missing* bytes.

        An allocator's fragments, a library's caches, what an unloaded model left behind: no eviction frees them.
        """
        now_s = asyncio.get_running_loop().time()
        ripe = [
            worker
            for worker in self._workers.shared()
            if worker.is_up
            and not self.budget.is_loading(worker.index)
            and now_s - self._recycled_s.get(worker.index, -RECYCLE_S) >= RECYCLE_S
        ]
        worst = max(ripe, key=lambda worker: self.budget.base_of(worker.index), default=None)
        if worst is None or self.budget.base_of(worst.index) - PROCESS_BYTES < max(missing, RECYCLE_LEAST):
            return False
        self._recycled_s[worst.index] = now_s
        self.counts["recyclings"] += 1
        unexplained = self.budget.base_of(worst.index)
        _log.warning("worker.recycling", worker=worst.index, unexplained_bytes=unexplained, why="memory is needed")
        await self._recycle(worst)
        return True

    async def _renew_one(self) -> None:
        """Have a shared worker recycled whose models are all gone, for two looks, but not all of what they took.

        An interpreter gives an arena back when nothing is left in it, and pages of the template that were written to
        never. As long as another worker is up, so that the server is never without one.
        """
        up = [worker for worker in self._workers.ordinary() if worker.is_up and not worker.is_recycled]
        empty = {worker.pid for worker in up if not self.budget.models_on(worker.index)}
        lasting, self._empty = self._empty & empty, empty
        for worker in up if len(up) > 1 else ():
            left = self.budget.measured_of(worker.index) - self._bare.get(worker.pid, 0)
            if worker.pid in lasting and left >= RENEW_LEAST:
                self.counts["recyclings"] += 1
                why = "its models are gone"
                _log.info("worker.recycling", worker=worker.index, unexplained_bytes=left, why=why)
                await self._recycle(worker)
                return

    def _is_recycling(self) -> bool:
        return any(worker.is_recycled for worker in self._workers.shared())

    async def _choose(self, missing: int, keep: Model | None) -> list[Model]:
        """The models to evict; [] when that would not be enough, or is not wanted."""
        if self._config.eviction == "none":
            return []
        await self.learn_uses()
        models = (model for model in self._registry if model is not keep)
        wanted = missing + int(MARGIN_SHARE * self.budget.capacity_bytes)
        charge_of = self.budget.charge_of
        return eviction.choose(
            models,
            lambda model: charge_of(model.index),
            missing,
            wanted,
            time.monotonic_ns(),
            self._config.min_resident_ms * 1_000_000,
        )

    def _may_change(self, keep: Model) -> bool:
        """Whether room may come by itself: from models that are busy, at work or just loaded, or loads that need less
        after all."""
        others = (model for model in self._registry if model is not keep)
        return self.budget.reserved_bytes > 0 or any(
            model.in_flight or model.state is State.UNLOADING or (model.work.locked() and model.residents())
            for model in others
        )

    def _at_most(self) -> str:
        return f"of which models can have {about_size(max(0, self.budget.empty_bytes))} at most"

    def _refusal(self, model: Model, needed: int, why: str) -> OutOfMemory:
        self.counts["refusals"] += 1
        budget = self.budget
        return OutOfMemory(
            f"model {model.name} needs {about_size(needed + budget.charge_of(model.index))} and "
            f"{about_size(max(0, budget.free_bytes))} are free of {about_size(budget.limit_bytes)} "
            f"(HEADRACE_MEMORY_BUDGET), {why}"
        )
