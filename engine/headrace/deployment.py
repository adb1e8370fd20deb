"""Brings models onto workers and routes to frontends; takes them away again; restores them after a worker's death.

Invariants
1. After load() every frontend can serve the model; after unload() none accepts it, and its memory is free.
   An evicted model keeps a route that leads nowhere: its requests wait, and the first of them has it loaded again.
2. A load that fails leaves nothing behind but its reason.
3. A route names resident replicas only. Routes are computed when they are sent, and sent in the order in which things
   happened, so that the last one that a frontend saw is true.
4. One work at a time is done on a model (Model.work): a scaling waits for a load to end, an unload cuts it short.
5. A load goes to a worker that others are served by only if it is known to be cheap (lanes.py), or nobody is served
   yet, or there can be no further worker. An extra worker ends with the last of its models.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any

from headrace import footprint, log, placement
from headrace.admission import Admission
from headrace.archives import Archives
from headrace.budget import Reservation
from headrace.children import BootFailed
from headrace.config import Config
from headrace.counts import Counts
from headrace.errors import (
    Conflict,
    HeadraceError,
    ModelError,
    ModelNotFound,
    OutOfMemory,
    UnloadTimeout,
    WorkerLost,
)
from headrace.frontends import Frontends
from headrace.history import History
from headrace.labels import Labels
from headrace.lanes import Lanes
from headrace.registry import Model, Registry, Replica, State
from headrace.routing import Routes
from headrace.scaling import Scaling
from headrace.workers import Worker, WorkerDied, Workers

LOAD_S = 600.0
POLL_S = 0.02
RESTART_S = 30.0  # that a load waits for a worker when all have just died

_log = log.get("supervisor")


class Deployment:
    def __init__(
        self,
        config: Config,
        registry: Registry,
        workers: Workers,
        frontends: Frontends,
        archives: Archives,
        board_fd: int,
    ) -> None:
        self.admission = Admission(config, registry, workers, frontends, board_fd, self.evict, self.recycle)
        self.history = History()
        self.scaling = Scaling(config, registry, workers, self.admission, self.add_replica, self.drop_replica)
        frontends.on_wake = self.wake
        self.counts = Counts()
        self.labels = Labels(config.metrics_models)
        self.routes = Routes(config, registry, frontends, self.labels)
        self.lanes = Lanes(config.loads)
        self.is_serving = False  # until the models of the start are loaded nobody can be held up
        self._reloads: set[asyncio.Task[None]] = set()
        self._config = config
        self._archives = archives
        self._registry = registry
        self._workers = workers
        self._frontends = frontends

    @property
    def _unload_s(self) -> float:
        """For requests that run; a worker that takes longer is ended."""
        return self._config.unload_timeout_ms / 1000

    async def load(self, model: Model) -> None:
        """Load a registered model on model.least workers and route to it.

        Raises ModelError, OutOfMemory, WorkerLost or Overloaded, and Conflict when the model is unloaded meanwhile;
        then the model is failed, with no replica.
        """
        async with model.work:
            self._check_stays(model)
            model.become(State.LOADING)
            try:
                model.directory = await self._archives.open(model.path)
                await self._bring_up(model, "loaded", "registered")
            except HeadraceError as error:
                model.fail(str(error))
                self._note_failure(model, str(error), error)
                await self.routes.withdraw(model)
                await self._archives.discard(model.directory)
                raise

    def wake(self, index: int) -> None:
        """A request came for a model that no worker has: load it again, unless that is under way already."""
        model = self._registry.find(index)
        if model is not None and model.state is State.EVICTED:
            model.state = State.LOADING
            task = asyncio.create_task(self._reload(model))
            self._reloads.add(task)
            task.add_done_callback(self._reloads.discard)

    async def _reload(self, model: Model) -> None:
        """Bring an evicted model back, or answer the requests that wait for it with the reason why not."""
        async with model.work:
            if model.is_leaving:
                return  # its route is withdrawn by whoever unloads it
            try:
                await self._bring_up(model, "reloaded", "a request came")
            except HeadraceError as error:
                model.become(State.EVICTED, f"not loaded again: {error}")
                self._note_failure(model, model.reason, error)
                refusal = {"op": "refuse", "name": model.name, "model": model.index}
                await self._frontends.broadcast({**refusal, "status": error.status, "text": str(error)})

    async def evict(self, models: Sequence[Model], why: str) -> None:
        """Take idle models from their workers; they stay registered, and requests that come for them wait.

        When this returns their memory is free.
        """
        charges = {model.index: self.admission.budget.charge_of(model.index) for model in models}
        for model in models:
            await model.work.acquire()  # without a wait: whoever is at work is not evicted
        try:
            await self._evict(models, why)
        finally:
            for model in models:
                model.work.release()
        for model in models:
            self.history.note(
                "evicted", model.name, why, charges[model.index], _age_s(model.loaded_ns), _age_s(model.used_ns)
            )

    async def _evict(self, models: Sequence[Model], why: str) -> None:
        for model in models:
            unused_ns = time.monotonic_ns() - max(model.used_ns, model.loaded_ns)
            self.counts.eviction_age_s.observe(unused_ns / 1e9)
            model.become(State.EVICTED, f"evicted {why}")
            for replica in model.replicas.values():
                replica.become(State.UNLOADING)
        await asyncio.gather(*map(self.routes.publish, models))
        by_worker: dict[int, list[Model]] = {}
        for model in models:
            for index in model.replicas:
                by_worker.setdefault(index, []).append(model)
        await self._leave(by_worker)
        for index, batch in by_worker.items():
            for model in batch:
                self._forget(model, index)

    async def recycle(self, worker: Worker) -> None:
        """Have a worker's process followed by a fresh one, for what it holds beyond its models. No request fails.

        New requests go to other replicas or wait; what the old process has, it answers first.
        """
        models = []
        for model in self._registry.on_worker(worker.index):
            if model.replicas[worker.index].state is State.RESIDENT:
                model.replicas[worker.index].become(State.REGISTERED)  # the successor is to have it; see restore()
                models.append(model)
        await asyncio.gather(*map(self.routes.publish, models))
        worker.recycle()

    async def _bring_up(self, model: Model, event: str, reason: str) -> None:
        """Load and route to it; after an error it has no replica. event, reason: for the history."""
        model.become(State.LOADING)
        started_s = asyncio.get_running_loop().time()
        try:
            await self._add(model, model.least)
            if (own := model.info.get("replicas")) and not model.is_counted:
                model.is_counted = True
                model.least, model.most = self._within(model, own)
                await self._add(model, model.least - len(model.replicas))
        except HeadraceError:
            await self._shrink(model, list(model.replicas))
            raise
        model.become(State.RESIDENT)
        model.is_routed = True
        await self.routes.publish(model)
        took_s = asyncio.get_running_loop().time() - started_s
        self.counts.loads["loaded"] += 1
        self.counts.load_s.observe(took_s)
        self.history.note(
            event,
            model.name,
            reason,
            self.admission.budget.charge_of(model.index),
            workers=model.residents(),
            isolation=model.isolation,
            took_ms=round(1000 * took_s),
        )

    async def unload(self, model: Model) -> None:
        """Answer what was accepted, then forget the model. A load under way is cut short.

        Raises ModelNotFound once another unload is through, and UnloadTimeout when a worker had to be ended.
        """
        if model.is_leaving:
            async with model.work:
                raise ModelNotFound(f"Model not found: {model.name}")
        model.is_leaving = True
        self._end_loads(model)
        async with model.work:
            model.state = State.UNLOADING
            await self.routes.withdraw(model)
            in_time = await self._shrink(model, list(model.replicas))
            await self._archives.discard(model.directory)
            self._registry.remove(model)
            self.labels.forget(model.index)
        waited = "" if in_time else f"after {self._unload_s:g} s (HEADRACE_UNLOAD_TIMEOUT) its worker was ended"
        self.history.note("unloaded", model.name, waited)
        if waited:
            raise UnloadTimeout(f"Timed out while cleaning resources: {model.name}; {waited}, and its memory is free")

    def _end_loads(self, model: Model) -> None:
        """End the model's own workers that are not serving it yet. A shared worker goes on: others live there, too."""
        self.lanes.dismiss(model)
        doomed = [worker for worker in self._workers.owned_by(model.index) if worker.index not in model.residents()]
        for worker in doomed:
            worker.retire()
        self._workers.kill(doomed)

    async def scale(self, model: Model, least: int, most: int) -> None:
        """Have *least* to *most* replicas. After a failure, which is raised as load() does, the old ones serve on."""
        async with model.work:
            await self._scale(model, least, most)

    async def _scale(self, model: Model, least: int, most: int) -> None:
        if model.is_leaving:
            raise ModelNotFound(f"Model not found: {model.name}")
        if model.state is State.FAILED:
            raise Conflict(f"Model {model.name} has failed: {model.reason}")
        least, most = self._within(model, (least, most))
        before, state = sorted(model.replicas), model.state
        wanted = min(most, max(least, 1, len(before)))
        model.state = State.LOADING
        try:
            if wanted > len(before):
                await self._add(model, wanted - len(before))
            surplus = before[wanted:]
            for worker in surplus:
                model.replicas[worker].become(State.UNLOADING)
            await self.routes.publish(model)
            await self._shrink(model, surplus)
            model.least, model.most, model.is_counted = least, most, True
            state = State.RESIDENT
        except HeadraceError:
            await self._shrink(model, [worker for worker in model.replicas if worker not in before])
            raise
        finally:
            model.state = state
            await self.routes.publish(model)

    async def add_replica(self, model: Model, why: str) -> bool:
        """Load the model on one more worker, if memory is free for it; False when that did not work."""
        async with model.work:
            if not self._is_settled(model):
                return True
            before = list(model.replicas)
            try:
                async with self._turn(model, 1) as goes_aside:
                    room = self.admission.spare(model, goes_aside and model.isolation == "shared")
                    if room is None:
                        return True  # and maybe there is at the next look
                    with self.admission.adding():
                        await self._try_replica(model, room, goes_aside)
            except HeadraceError as error:
                if not model.is_leaving:
                    self._note_failure(model, f"no further replica: {error}", error)
                return False
            await self.routes.publish(model)
        if len(model.replicas) > len(before):
            self._note_replicas("added", model, why)
        return True

    async def _try_replica(self, model: Model, room: Reservation, goes_aside: bool) -> None:
        before = list(model.replicas)
        try:
            await self._grow(model, [room], goes_aside)
        except HeadraceError:
            await self._shrink(model, [worker for worker in model.replicas if worker not in before])
            raise

    async def drop_replica(self, model: Model, why: str) -> bool:
        """Take the model from one of its workers, but not from the last."""
        async with model.work:
            residents = model.residents()
            if not self._is_settled(model) or len(residents) < 2:
                return True
            counts = {worker: self.admission.budget.models_on(worker) for worker in residents}
            index = placement.choose_to_leave(residents, counts)
            model.replicas[index].become(State.UNLOADING)
            await self.routes.publish(model)
            await self._shrink(model, [index])
        self._note_replicas("removed", model, why)
        return True

    def _is_settled(self, model: Model) -> bool:
        return model.state is State.RESIDENT and not model.is_leaving

    def _note_replicas(self, change: str, model: Model, why: str) -> None:
        self.counts.replica_changes[change] += 1
        charge = self.admission.budget.charge_of(model.index)
        self.history.note(f"replica_{change}", model.name, why, charge, workers=model.residents())

    def _within(self, model: Model, replicas: Sequence[int]) -> tuple[int, int]:
        """(least, most) as far as there are workers."""
        least, most = replicas
        workers = self._config.workers if model.isolation == "shared" else most
        return min(least, workers), min(most, workers)

    def memory_bytes(self, worker: int) -> int:
        """What the worker's process has resident, pages that it shares included; 0 when there is none."""
        known = self._workers.by_index.get(worker)
        return footprint.resident_bytes(known.pid) if known is not None else 0

    async def vacate(self, worker: Worker, shared_count: int) -> None:
        """Have a shared worker that is to go (Worker.is_leaving) serve nothing any more. No request fails: a model that
        only it has is loaded on another first.

        shared_count: of shared workers that are to stay. Raises as load() does when a model finds no place elsewhere;
        what was moved by then stays where it is.
        """
        while models := self._registry.on_worker(worker.index):
            for model in models:
                async with model.work:
                    await self._move_away(model, worker.index, shared_count)

    async def _move_away(self, model: Model, index: int, shared_count: int) -> None:
        if index not in model.replicas:
            return
        if model.state is State.RESIDENT and not set(model.residents()) - {index}:
            try:
                await self._add(model, 1)
            except HeadraceError:
                await self._shrink(model, [worker for worker in model.replicas if worker != index])
                raise
        model.replicas[index].become(State.UNLOADING)
        model.least, model.most = min(model.least, shared_count), min(model.most, shared_count)
        await self.routes.publish(model)
        await self._shrink(model, [index])

    async def lift(self, model: Model) -> None:
        """A quarantine is over: bring the model back to the workers that died of it, then route to it again."""
        if model.state is State.RESIDENT:
            for index, replica in sorted(model.replicas.items()):
                worker = self._workers.by_index.get(index)
                if worker is not None and worker.is_up and replica.state is State.REGISTERED:
                    await self._restore(model, worker, replica)
            await self.routes.publish(model)

    async def restore(self, worker: Worker) -> None:
        """Load on a successor what its predecessor had."""
        self.admission.measure()
        for model in self._registry.on_worker(worker.index):
            replica = model.replicas.get(worker.index)
            if replica is None or replica.state is not State.REGISTERED or model.quarantine:
                continue  # unloaded by now, or the load that began on the predecessor is failing, or it is set aside
            await self._restore(model, worker, replica)
            if not worker.is_up:
                return
            await self.routes.publish(model)
        if worker.is_extra and not worker.owner and not self._registry.on_worker(worker.index):
            worker.retire()

    async def take_down(self, worker: Worker) -> None:
        """Note that a worker is gone: nothing is routed to it until its successor has the models again."""
        self.admission.budget.forget(worker.index)
        hit = []
        for model in self._registry.on_worker(worker.index):
            replica = model.replicas[worker.index]
            if replica.state is State.RESIDENT:
                replica.become(State.REGISTERED)
                hit.append(model)
        await asyncio.gather(*map(self.routes.publish, hit))

    async def _restore(self, model: Model, worker: Worker, replica: Replica) -> None:
        try:
            room = self.admission.restore(model, worker.index)
            await self._load_replica(model, worker, replica, room, is_aside=bool(worker.owner))
        except WorkerLost:
            replica.become(State.REGISTERED)  # and the next successor tries again
        except HeadraceError as error:
            why = f"not loaded on the successor of worker {worker.index}: {error}"
            self._note_failure(model, why, error)
            if self._has_no_other(worker, [model]):
                worker.retire()  # there is nothing that it could serve
            elif isinstance(error, OutOfMemory):  # it may be loaded, and too large
                await self._unload_from(worker.index, [model])
            self._forget(model, worker.index)
            if not model.replicas and model.state is State.RESIDENT:
                if isinstance(error, OutOfMemory):
                    model.become(State.EVICTED, f"not loaded again: {error}")
                else:
                    model.fail(str(error))
                    await self.routes.withdraw(model)

    def _note_failure(self, model: Model, reason: str, error: HeadraceError) -> None:
        event = "refused" if isinstance(error, OutOfMemory) else "failed"
        self.counts.loads[event] += 1
        self.history.note(event, model.name, reason, model.needs_bytes, detail=error.detail)

    def _check_stays(self, model: Model) -> None:
        if model.is_leaving:
            raise Conflict(f"Model {model.name} was unregistered while it was being loaded")

    async def _add(self, model: Model, count: int) -> None:
        """Load on so many more workers. Raises as load() does; what was loaded then is the caller's to give up."""
        if count > 0:
            async with self._turn(model, count) as goes_aside:
                extra = goes_aside and model.isolation == "shared"
                await self._grow(model, await self.admission.admit(model, count, extra), goes_aside)

    @contextlib.asynccontextmanager
    async def _turn(self, model: Model, count: int) -> AsyncIterator[bool]:
        """Held while replicas are loaded; gives whether they go aside."""
        if not self._goes_aside(model, count):
            yield False
            return
        async with self.lanes.turn(model):
            self._check_stays(model)
            yield self._goes_aside(model, count)  # by now another of its kind may have been loaded

    def _goes_aside(self, model: Model, count: int) -> bool:
        if model.isolation == "process":
            return True
        if not self.is_serving or not self._config.extra_workers or self.lanes.is_cheap(model):
            return False
        return self.admission.could_fit(model, count)

    async def _grow(self, model: Model, reservations: Sequence[Reservation], goes_aside: bool) -> None:
        """Add a replica for each reservation and load them; the first error is raised once all have come to an end."""
        try:
            workers = await self._find_workers(model, len(reservations), goes_aside)
        except HeadraceError:
            self.admission.cancel(reservations)
            self._check_stays(model)
            raise
        self.admission.cancel(reservations[len(workers) :])
        loads = []
        for worker, reservation in zip(workers, reservations, strict=False):
            replica = model.replicas[worker.index] = Replica(State.LOADING)
            self.admission.budget.place(reservation, worker.index)
            loads.append(self._load_replica(model, worker, replica, reservation, is_aside=bool(worker.owner)))
        results = await asyncio.gather(*loads, return_exceptions=True)
        self._check_stays(model)
        for result in results:
            if isinstance(result, WorkerDied):
                why = f"model {model.name}: {result} while loading it"
                if result.death.signal == signal.SIGKILL:
                    raise OutOfMemory(f"{why}; it may need more memory than there is")
                raise ModelError(why)
            if isinstance(result, BaseException):
                raise result
        extras = [worker for worker in workers if worker.owner and worker.is_extra]
        if extras and not (self.lanes.is_cheap(model) and await self._pack(model, extras)):
            for worker in extras:
                self._workers.share(worker)

    async def _pack(self, model: Model, extras: Sequence[Worker]) -> bool:
        """Load a model that has proved to be cheap on ordinary workers instead. False when that did not work."""
        before = list(model.replicas)
        try:
            await self._grow(model, [self.admission.again(model) for _ in extras], goes_aside=False)
        except HeadraceError as error:
            await self._shrink(model, [index for index in model.replicas if index not in before])
            self._check_stays(model)
            _log.info("model.not_packed", model=model.name, why=error)
            return False
        await self._shrink(model, [worker.index for worker in extras])
        return True

    async def _find_workers(self, model: Model, count: int, goes_aside: bool) -> list[Worker]:
        if model.isolation == "process":
            return await self._fork(model, [self._workers.add_dedicated(model.index) for _ in range(count)])
        extras = await self._fork(model, [self._workers.add_extra(model.index) for _ in range(count * goes_aside)])
        if len(extras) == count:
            return extras
        while not (up := [it for it in await self._workers.wait_for_ordinary(RESTART_S) if not it.is_recycled]):
            await asyncio.sleep(POLL_S)  # the only one is about to be followed by another
        if goes_aside:  # and there can be no further extra one: better hold up those whose own loads were slow
            up = [it for it in self._workers.extras() if it.is_up and not it.owner and not it.retired.is_set()] or up
        free = [worker.index for worker in up if worker.index not in model.replicas]
        counts = {index: self.admission.budget.models_on(index) for index in free}
        chosen = placement.choose_shared(count - len(extras), counts)
        return extras + [self._workers.by_index[index] for index in chosen]

    async def _fork(self, model: Model, births: Sequence[Awaitable[Worker | None]]) -> list[Worker]:
        """The workers that come up for the model alone; those that may not be are left out. Raises the first error."""
        results = await asyncio.gather(*births, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                await self._workers.retire(self._unused(model), self._unload_s)
                raise WorkerLost(str(result)) if isinstance(result, BootFailed) else result
        return [result for result in results if isinstance(result, Worker)]

    def _unused(self, model: Model) -> list[Worker]:
        return [worker for worker in self._workers.owned_by(model.index) if worker.index not in model.replicas]

    async def _load_replica(
        self, model: Model, worker: Worker, replica: Replica, room: Reservation, is_aside: bool
    ) -> None:
        replica.become(State.LOADING)
        message: dict[str, Any] = {
            "op": "load",
            "model": model.index,
            "name": model.name,
            "path": model.directory,
            "handler": model.handler,
            "options": {**model.options, "isolation": model.isolation},
            "aside": is_aside,
        }
        pid = worker.pid
        try:
            reply = await worker.call(message, LOAD_S, self.admission.weights.open(model))
        except TimeoutError:
            self._workers.kill([worker])
            raise ModelError(f"model {model.name}: not loaded after {LOAD_S:.0f} s; its worker was ended") from None
        else:
            model.info = reply.get("info") or {}
            model.is_pinned = model.is_pinned or model.info.get("pinned") is True
            grown_bytes, mapped_bytes = int(reply.get("grown_bytes") or 0), int(reply.get("mapped_bytes") or 0)
            self.lanes.learn(model, float(reply.get("held_ms") or 0), reply.get("is_first") is True)
            await self.admission.settle(room, model, worker, grown_bytes, mapped_bytes)
        finally:
            self.admission.cancel([room])
        if worker.pid != pid or not worker.is_up:
            raise WorkerLost(f"worker {worker.index} ended just after it had loaded model {model.name}")
        if replica.state is State.LOADING:  # else it is to go already
            replica.become(State.RESIDENT)

    async def _shrink(self, model: Model, indices: Sequence[int]) -> bool:
        """Give up these replicas; when this returns their memory is free. False when a worker had to be ended."""
        unused = (worker.index for worker in self._unused(model))
        in_time = await self._leave({index: [model] for index in (*indices, *unused)})
        for index in indices:
            self._forget(model, index)
        return in_time

    async def _leave(self, models: Mapping[int, Sequence[Model]]) -> bool:
        """Have workers, by index, give up these models. False when one had to be ended."""
        ends, unloads = [], []
        for index, leaving in models.items():
            worker = self._workers.by_index.get(index)
            if worker is not None and self._has_no_other(worker, leaving):
                ends.append(worker)
            else:
                unloads.append(self._unload_from(index, leaving))
        return all(await asyncio.gather(self._workers.retire(ends, self._unload_s), *unloads))

    def _has_no_other(self, worker: Worker, models: Sequence[Model]) -> bool:
        """Whether a worker that is there for these models only may end with them."""
        if worker.owner or not worker.is_extra:
            return bool(worker.owner)
        return all(model in models for model in self._registry.on_worker(worker.index))

    def _forget(self, model: Model, index: int) -> None:
        """The replica on that worker is gone; the last one takes along what they had in common."""
        model.replicas.pop(index, None)
        if not model.replicas:
            self.admission.weights.drop(model)

    async def _unload_from(self, index: int, models: Sequence[Model]) -> bool:
        """Have a shared worker forget these models. False when it had to be ended."""
        worker = self._workers.by_index.get(index)
        models = [model for model in models if index in model.replicas]  # an eviction may have been faster
        if worker is None or not models:
            return True  # the server ends, or there is nothing to forget
        in_time = True
        for model in models:
            model.replicas[index].become(State.UNLOADING)
        names = [model.name for model in models]
        try:
            await worker.call({"op": "unload", "models": [model.index for model in models]}, self._unload_s)
        except WorkerLost:
            pass  # and the models with it
        except TimeoutError:
            _log.error("worker.stuck", worker=index, models=names, op="unload", waited_s=self._unload_s)
            self._workers.kill([worker])
            in_time = False
        except HeadraceError as error:
            _log.error("model.not_unloaded", models=names, worker=index, error=error)
        for model in models:
            self.admission.budget.release(index, model.index)
        return in_time


def _age_s(when_ns: int) -> float | None:
    """Seconds since a moment of CLOCK_MONOTONIC; None when there was none."""
    return round((time.monotonic_ns() - when_ns) / 1e9, 3) if when_ns else None
