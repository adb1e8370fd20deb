"""Gathers what all processes count, when somebody scrapes: frontends are asked, the board and the books are read."""

import asyncio
import time
from collections import Counter
from typing import Any

from headrace import metrics
from headrace.deployment import Deployment
from headrace.frontends import Frontends
from headrace.labels import OTHER
from headrace.registry import Model, Registry, State
from headrace.workers import Workers


class Scrape:
    def __init__(
        self, most: int, registry: Registry, workers: Workers, frontends: Frontends, deployment: Deployment
    ) -> None:
        self._most = most
        self._registry = registry
        self._workers = workers
        self._frontends = frontends
        self._deployment = deployment

    async def text(self) -> str:
        """All metrics, as Prometheus reads them."""
        replies = await self._frontends.broadcast({"op": "stats", "busiest": self._most})
        self._deployment.admission.measure()
        snapshot = metrics.Snapshot(
            frontends={index: reply["stats"] for index, reply in replies.items()},
            tallies=[reply["tally"] for reply in replies.values()],
            workers=self._workers.pages(),
            now_ns=time.monotonic_ns(),
            restarts=dict(self._workers.restarts),
            states=self._states(),
            models=self._models(),
            memory=self._deployment.admission.metrics(),
            counts=self._deployment.counts,
        )
        await self._rank(replies)
        return await asyncio.to_thread(metrics.exposition, snapshot)  # some 10,000 lines take tens of milliseconds

    def _states(self) -> dict[str, int]:
        counts = Counter(model.state.value for model in self._registry)
        return {state.value: counts[state.value] for state in State}

    def _models(self) -> dict[str, dict[str, int]]:
        """What each named model has now, and all others together."""
        charge_of = self._deployment.admission.budget.charge_of
        found = {OTHER: {"memory_bytes": 0, "replicas": 0}}
        for model in self._registry:
            is_named = model.is_routed and self._deployment.labels.is_named(model.index, model.name)
            entry = found.setdefault(model.name if is_named else OTHER, {"memory_bytes": 0, "replicas": 0})
            entry["memory_bytes"] += charge_of(model.index)
            entry["replicas"] += len(model.residents())
        return found

    async def _rank(self, replies: dict[int, Any]) -> None:
        """Give busier models names of their own; frontends count them apart from now on."""
        asked: Counter[int] = Counter()
        for reply in replies.values():
            for index, count in reply["tally"]["asked"]:
                asked[index] += count
        models: dict[int, Model] = {model.index: model for model in self._registry}
        for index in self._deployment.labels.rank(asked, {index: model.name for index, model in models.items()}):
            if index in models:
                await self._deployment.routes.publish(models[index])
