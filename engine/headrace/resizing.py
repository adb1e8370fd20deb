"""Another number of shared workers while the server runs: HEADRACE_WORKERS changed.

    more    they are forked, pinned as if they had always been there, and get a replica of each model that is to be on
            every worker, as far as memory is free: nobody is evicted for that
    fewer   the last ones get no model any more; what only they have is loaded elsewhere; they answer what they have
            and end

Where either does not work out, the workers that were there before stay, and go on serving.
"""

import asyncio

from headrace import affinity, log
from headrace.config import Config
from headrace.deployment import Deployment
from headrace.errors import HeadraceError, WorkerLost
from headrace.frontends import Frontends
from headrace.registry import Model, Registry
from headrace.workers import Worker, Workers

ACK_S = 1.0  # for a worker to set its threads anew; one that computes does it afterwards

_log = log.get("supervisor")


class Resizing:
    def __init__(
        self, config: Config, registry: Registry, workers: Workers, frontends: Frontends, deployment: Deployment
    ) -> None:
        self._config = config
        self._registry = registry
        self._workers = workers
        self._frontends = frontends
        self._deployment = deployment

    async def resize(self, count: int) -> None:
        """Have *count* shared workers. Raises BootFailed, Overloaded, OutOfMemory and what else a load raises."""
        before = self._workers.plan
        self._workers.plan = affinity.plan(self._config.pin, count, self._config.frontends)
        here = self._workers.ordinary()
        try:
            if count > len(here):
                await self._workers.add_shared(count - len(here))
            else:
                await self._end(here[count:], count)
        except HeadraceError:
            self._workers.plan = before
            raise
        self._config.adopt({"workers": count})
        await self._pin()
        if count > len(here):
            await self._spread(count)

    async def _end(self, leaving: list[Worker], count: int) -> None:
        for worker in leaving:
            worker.is_leaving = True
        try:
            for worker in leaving:
                await self._deployment.vacate(worker, count)
        except HeadraceError:
            for worker in leaving:
                worker.is_leaving = False
            raise
        await self._workers.retire(leaving, self._config.unload_timeout_ms / 1000)

    async def _spread(self, count: int) -> None:
        """Models for whose replicas nobody named a number may be on the new workers too; those of the start are."""
        for model in self._registry:
            if model.isolation == "shared" and not model.is_counted:
                model.most = count
                if model.is_startup:
                    model.least = count
                    await self._fill(model)

    async def _fill(self, model: Model) -> None:
        have = -1
        while have < len(model.replicas) < model.least:
            have = len(model.replicas)
            await self._deployment.add_replica(model, "workers were added")

    async def _pin(self) -> None:
        """Move every process to where the plan has it, and size the workers' thread pools."""
        plan = self._workers.plan
        self._frontends.pin(plan.frontends)
        places = list(zip(self._workers.ordinary(), plan.workers, plan.threads, strict=False))
        dedicated = [worker for worker in self._workers.by_index.values() if worker.owner or worker.is_extra]
        places += [(worker, plan.dedicated, plan.dedicated_threads) for worker in dedicated]
        moves = []
        for worker, cpus, threads in places:
            if worker.cpus != cpus:
                worker.cpus = cpus
                affinity.pin(worker.pid, cpus)
            if worker.threads != threads:
                moves.append(_set_threads(worker, threads))
        await asyncio.gather(*moves)


async def _set_threads(worker: Worker, threads: int) -> None:
    before, worker.threads = worker.threads, threads
    try:
        await worker.call({"op": "threads", "threads": threads, "before": before}, ACK_S)
    except (TimeoutError, WorkerLost):
        pass  # it will when it has computed; or its successor is born so
    except HeadraceError as error:
        _log.warning("worker.threads_kept", worker=worker.index, threads=before, error=error)
