"""Brings models onto workers and routes to frontends; takes them away again; restores them after a worker's death.

Invariants
1. After load() every frontend can serve the model; after unload() none accepts it, and its memory is free.
2. A load that fails leaves nothing behind but its reason.
3. A route names resident replicas only. Routes are computed when they are sent, and sent in the order in which things
   happened, so that the last one that a frontend saw is true.
"""

import asyncio
import math
import signal
from collections import Counter
from collections.abc import Sequence
from typing import Any

import psutil

from headrace import log, metrics, placement
from headrace.archives import Archives
from headrace.config import Config
from headrace.control import Message
from headrace.errors import Conflict, HeadraceError, ModelError, OutOfMemory, WorkerLost
from headrace.frontends import Frontends
from headrace.registry import Model, Registry, Replica, State
from headrace.workers import Worker, WorkerDied, Workers

LOAD_S = 600.0
RESTART_S = 30.0  # that a load waits for a worker when all have just died

_log = log.get("supervisor")


class Deployment:
    def __init__(
        self, config: Config, registry: Registry, workers: Workers, frontends: Frontends, archives: Archives
    ) -> None:
        self._config = config
        self._archives = archives
        self._registry = registry
        self._workers = workers
        self._frontends = frontends
        self._unload_s = config.unload_timeout_ms / 1000  # for requests that run; a worker that takes longer is ended

    async def load(self, model: Model) -> None:
        """Load a registered model on model.wanted workers and route to it.

        Raises ModelError, OutOfMemory, WorkerLost, Overloaded or BootFailed; then the model is failed, with no replica.
        """
        model.state = State.LOADING
        started_s = asyncio.get_running_loop().time()
        try:
            model.directory = await self._archives.open(model.path)
            await self._grow(model, model.wanted)
        except HeadraceError as error:
            model.fail(str(error))
            _log.error("model.failed", model=model.name, error=error, detail=error.detail)
            await self._shrink(model, list(model.replicas))
            await self._withdraw_route(model)
            await self._archives.discard(model.directory)
            raise
        model.state, model.is_routed = State.RESIDENT, True
        await self.publish(model)
        took_ms = round(1000 * (asyncio.get_running_loop().time() - started_s))
        _log.info(
            "model.loaded", model=model.name, workers=model.residents(), isolation=model.isolation, took_ms=took_ms
        )

    async def unload(self, model: Model) -> None:
        """Answer what was accepted, then forget the model. Raises Conflict while it is loading or unloading."""
        self._check_idle(model)
        model.state = State.UNLOADING
        await self._withdraw_route(model)
        await self._shrink(model, list(model.replicas))
        await self._archives.discard(model.directory)
        self._registry.remove(model)
        _log.info("model.unloaded", model=model.name)

    async def scale(self, model: Model, wanted: int) -> None:
        """Have *wanted* replicas. Raises as load() and unload() do; after a failure the old replicas serve on."""
        self._check_idle(model)
        if model.state is State.FAILED:
            raise Conflict(f"Model {model.name} has failed: {model.reason}")
        if model.isolation == "shared":
            wanted = min(wanted, len(self._workers.shared()))
        before = sorted(model.replicas)
        model.state = State.LOADING
        try:
            if wanted > len(before):
                await self._grow(model, wanted - len(before))
            surplus = before[wanted:]
            for worker in surplus:
                model.replicas[worker].become(State.UNLOADING)
            await self.publish(model)
            await self._shrink(model, surplus)
            model.wanted = wanted
        except HeadraceError:
            await self._shrink(model, [worker for worker in model.replicas if worker not in before])
            raise
        finally:
            model.state = State.RESIDENT
            await self.publish(model)

    def memory_bytes(self, worker: int) -> int:
        """What the worker's process has resident, pages that it shares included; 0 when there is none."""
        try:
            return int(psutil.Process(self._workers.by_index[worker].pid).memory_info().rss)
        except (KeyError, ValueError, psutil.Error):
            return 0

    async def metrics(self) -> str:
        """What all processes count, as Prometheus reads it."""
        replies = await self._frontends.broadcast({"op": "stats"})
        states = Counter(model.state.value for model in self._registry)
        frontends = {index: reply["stats"] for index, reply in replies.items()}
        return metrics.exposition(
            frontends, self._workers.pages(), {state.value: states[state.value] for state in State}
        )

    async def lift(self, model: Model) -> None:
        """A quarantine is over: bring the model back to the workers that died of it, then route to it again."""
        if model.state is State.RESIDENT:
            for index, replica in sorted(model.replicas.items()):
                worker = self._workers.by_index.get(index)
                if worker is not None and worker.is_up and replica.state is State.REGISTERED:
                    await self._restore(model, worker, replica)
            await self.publish(model)

    def routes(self) -> list[Message]:
        """What a new frontend has to know."""
        return [self._route(model) for model in self._registry if model.is_routed]

    async def restore(self, worker: Worker) -> None:
        """Load on a successor what its predecessor had."""
        for model in self._registry.on_worker(worker.index):
            replica = model.replicas.get(worker.index)
            if replica is None or replica.state is not State.REGISTERED or model.quarantine:
                continue  # unloaded by now, or the load that began on the predecessor is failing, or it is set aside
            await self._restore(model, worker, replica)
            if not worker.is_up:
                return
            await self.publish(model)

    async def take_down(self, worker: Worker) -> None:
        """Note that a worker is gone: nothing is routed to it until its successor has the models again."""
        hit = []
        for model in self._registry.on_worker(worker.index):
            replica = model.replicas[worker.index]
            if replica.state is State.RESIDENT:
                replica.become(State.REGISTERED)
                hit.append(model)
        await asyncio.gather(*map(self.publish, hit))

    async def _restore(self, model: Model, worker: Worker, replica: Replica) -> None:
        try:
            await self._load_replica(model, worker, replica)
        except WorkerLost:
            replica.become(State.REGISTERED)  # and the next successor tries again
        except HeadraceError as error:
            _log.error("model.not_restored", model=model.name, worker=worker.index, error=error, detail=error.detail)
            model.replicas.pop(worker.index, None)
            if worker.owner:
                worker.retire()  # there is nothing that it could serve
            if not model.replicas and model.state is State.RESIDENT:
                model.fail(str(error))
                await self._withdraw_route(model)

    def _check_idle(self, model: Model) -> None:
        if model.state in (State.LOADING, State.UNLOADING):
            raise Conflict(f"Model {model.name} is {model.state.value}; try again when it is done")

    async def _grow(self, model: Model, count: int) -> None:
        """Add replicas and load them; the first error is raised once all have come to an end."""
        loads = []
        for worker in await self._find_workers(model, count):
            replica = model.replicas[worker.index] = Replica(State.LOADING)
            loads.append(self._load_replica(model, worker, replica))
        for result in await asyncio.gather(*loads, return_exceptions=True):
            if isinstance(result, WorkerDied):
                why = f"model {model.name}: {result} while loading it"
                if result.death.signal == signal.SIGKILL:
                    raise OutOfMemory(f"{why}; it may need more memory than there is")
                raise ModelError(why)
            if isinstance(result, BaseException):
                raise result

    async def _find_workers(self, model: Model, count: int) -> list[Worker]:
        if model.isolation == "process":
            results = await asyncio.gather(
                *(self._workers.add_dedicated(model.index) for _ in range(count)), return_exceptions=True
            )
            for result in results:
                if isinstance(result, BaseException):
                    await self._workers.retire(self._unused(model), self._unload_s)
                    raise result
            return [result for result in results if isinstance(result, Worker)]
        up = await self._workers.wait_for_shared(RESTART_S)
        free = [worker.index for worker in up if worker.index not in model.replicas]
        counts = {index: len(self._registry.on_worker(index)) for index in free}
        return [self._workers.by_index[index] for index in placement.choose_shared(count, counts)]

    def _unused(self, model: Model) -> list[Worker]:
        return [worker for worker in self._workers.owned_by(model.index) if worker.index not in model.replicas]

    async def _load_replica(self, model: Model, worker: Worker, replica: Replica) -> None:
        replica.become(State.LOADING)
        message: dict[str, Any] = {
            "op": "load",
            "model": model.index,
            "name": model.name,
            "path": model.directory,
            "handler": model.handler,
            "options": {**model.options, "isolation": model.isolation},
        }
        try:
            reply = await worker.call(message, LOAD_S)
        except TimeoutError:
            self._workers.kill([worker])
            raise ModelError(f"model {model.name}: not loaded after {LOAD_S:.0f} s; its worker was ended") from None
        if replica.state is State.LOADING:  # else it is to go already
            replica.become(State.RESIDENT)
        model.info = reply.get("info") or {}

    async def _shrink(self, model: Model, indices: Sequence[int]) -> None:
        """Give up these replicas; when this returns their memory is free."""
        if model.isolation == "process":
            doomed = {*indices, *(worker.index for worker in self._unused(model))}
            workers = [worker for worker in self._workers.owned_by(model.index) if worker.index in doomed]
            await self._workers.retire(workers, self._unload_s)
        else:
            await asyncio.gather(*(self._unload_replica(model, index) for index in indices))
        for index in indices:
            model.replicas.pop(index, None)

    async def _unload_replica(self, model: Model, index: int) -> None:
        worker = self._workers.by_index.get(index)
        if worker is None:
            return  # the server ends
        model.replicas[index].become(State.UNLOADING)
        try:
            await worker.call({"op": "unload", "model": model.index}, self._unload_s)
        except WorkerLost:
            pass  # and the model with it
        except TimeoutError:
            _log.error("worker.stuck", worker=index, model=model.name, op="unload", waited_s=self._unload_s)
            self._workers.kill([worker])
        except HeadraceError as error:
            _log.error("model.not_unloaded", model=model.name, worker=index, error=error)

    async def publish(self, model: Model) -> None:
        """Tell the frontends where it is now; nowhere means that requests wait for it."""
        if model.is_routed:
            await self._frontends.broadcast(self._route(model))

    async def _withdraw_route(self, model: Model) -> None:
        if model.is_routed:
            model.is_routed = False
            await self._frontends.broadcast({"op": "unroute", "name": model.name})

    def _route(self, model: Model) -> Message:
        return {
            "op": "route",
            "name": model.name,
            "model": model.index,
            "workers": [] if model.quarantine else model.residents(),
            "queue": self._config.queue if model.wanted else 0,  # scaled to none: there is nothing to wait for
            "timeout_ms": model.timeout_ms,
            "default": model.is_default,
            "refusal": f"model {model.name} is set aside: {model.quarantine}" if model.quarantine else "",
            "retry_after_s": math.ceil(model.quarantined_for_s),
        }
