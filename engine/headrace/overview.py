"""GET /overview: the server at a glance, for the console and `headrace models`: memory, workers, models, history.

Rates and latencies are not here but in /metrics, whose counters whoever asks compares for himself.
"""

import os
import time
from typing import Any

from headrace import __version__
from headrace.config import Config
from headrace.deployment import Deployment
from headrace.explain import idle_s, iso_time
from headrace.registry import Model, Registry
from headrace.workers import Worker, Workers

MODELS_MOST = 2000  # the largest; the rest are counted
HISTORY_MOST = 200
REASON_MOST = 500  # characters

Document = dict[str, Any]


class Overview:
    def __init__(self, config: Config, registry: Registry, workers: Workers, deployment: Deployment) -> None:
        self._config = config
        self._registry = registry
        self._workers = workers
        self._deployment = deployment

    def identity(self) -> Document:
        """Which process this is: its number, and when it started (Unix seconds), for no number is for ever."""
        import psutil

        return {"pid": os.getpid(), "started": psutil.Process().create_time()}

    async def document(self) -> Document:
        """All sizes in bytes. Models by size, largest first; history latest first."""
        admission = self._deployment.admission
        admission.measure()
        await admission.learn_uses()
        now_ns = time.monotonic_ns()
        charge_of = admission.budget.charge_of
        models = sorted(self._registry, key=lambda model: (-charge_of(model.index), model.name))
        return {
            "server": {
                "version": __version__,
                **self.identity(),
                "time": time.time(),
                "token": self._config.token_scope if self._config.token_file else "none",
                "eviction": self._config.eviction,
                "single_port": self._config.single_port,
            },
            "memory": {**admission.metrics(), "free_bytes": admission.budget.free_bytes},
            "workers": [self._worker(worker, now_ns) for _, worker in sorted(self._workers.by_index.items())],
            "models": [self._model(model, charge_of(model.index), now_ns) for model in models[:MODELS_MOST]],
            "models_left_out": max(0, len(models) - MODELS_MOST),
            "history": [
                {**record, "time": iso_time(record["time"])}
                for record in reversed(self._deployment.history.records()[-HISTORY_MOST:])
            ],
        }

    def _worker(self, worker: Worker, now_ns: int) -> Document:
        budget = self._deployment.admission.budget
        page = self._workers.page(worker) if worker.is_up else None
        at = self._registry.find(page["state_model"]) if page is not None else None
        owner = self._registry.find(worker.owner) if worker.owner else None
        return {
            "worker": worker.index,
            "pid": worker.pid,
            "cpus": list(worker.cpus) if worker.cpus else None,
            "is_up": worker.is_up,
            "owner": owner.name if owner is not None else None,
            "state": page["state"] if page is not None else "down",
            "since_s": round((now_ns - page["state_since_ns"]) / 1e9, 3) if page and page["state_since_ns"] else None,
            "at": at.name if at is not None and page is not None and page["state"] in ("running", "loading") else None,
            "models": budget.models_on(worker.index),
            "memory_bytes": budget.measured_of(worker.index),
        }

    def _model(self, model: Model, charge_bytes: int, now_ns: int) -> Document:
        reason = model.quarantine or model.reason
        return {
            "name": model.name,
            "status": model.status,
            "reason": reason if len(reason) <= REASON_MOST else reason[: REASON_MOST - 3] + "...",
            "workers": model.residents(),
            "least": model.least,
            "most": model.most,
            "isolation": model.isolation,
            "pinned": model.is_pinned,
            "charge_bytes": charge_bytes,
            "idle_s": idle_s(model, now_ns),
            "in_flight": model.in_flight,
        }
