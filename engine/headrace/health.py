"""What the server says about itself: /ping, /health/live and /health/ready.

Frontends answer all three by themselves, from what they were last told, so an answer waits for no worker, no model and
not for the supervisor. Who tells them is here: at once when a worker comes or goes, else within LOOK_S of a change.

    /ping          as SageMaker wants it: 200 from the end of the start on, unless the only model could not be loaded;
                   in multi-model mode once a worker is up
    /health/live   200 as long as a frontend turns its loop
    /health/ready  200 while the server can take requests, else 503; the document says why, and what else is amiss

A model that failed or is in quarantine is a reason in the document, and no more: it does not make the server unready,
unless it failed and is the only model of the start, without which there is nothing to serve.
"""

import asyncio
from collections import Counter
from typing import Any

from headrace import log
from headrace.config import Config
from headrace.control import Message
from headrace.frontends import Frontends
from headrace.registry import Registry, State
from headrace.workers import Workers

LOOK_S = 0.25
REASONS_MAX = 100  # models that are named one by one

_log = log.get("supervisor")


class Health:
    def __init__(self, config: Config, registry: Registry, workers: Workers, frontends: Frontends) -> None:
        self.is_started = config.multi_model and not config.models  # else with the last of the models given at start
        self.is_draining = False
        self._config = config
        self._registry = registry
        self._workers = workers
        self._frontends = frontends
        self._told: Message = {}

    async def run(self) -> None:
        """Looks around until cancelled."""
        while True:
            self.tell()
            await asyncio.sleep(LOOK_S)

    def tell(self) -> None:
        """Tell the frontends, if anything has changed since."""
        now = self.message()
        if now != self._told:
            if now["status"] != self._told.get("status") or now["text"] != self._told.get("text"):
                _log.info("health", status=now["status"], text=now["text"])
            self._told = now
            self._frontends.tell(now)

    def message(self) -> Message:
        """What a frontend has to know."""
        shared = [worker.is_up for worker in self._workers.ordinary()]
        has_failed = any(model.is_default and model.state is State.FAILED for model in self._registry)
        if not any(shared) or not self.is_started or has_failed:
            status, text = 503, "Unhealthy"
        else:
            status, text = 200, "Healthy" if all(shared) else "Partial Healthy"
        is_ready = status == 200 and not self.is_draining
        ready: dict[str, Any] = {"status": "ready" if is_ready else "not ready", **self._document(shared)}
        return {"op": "health", "status": status, "text": text, "ready": 200 if is_ready else 503, "document": ready}

    def _document(self, shared: list[bool]) -> dict[str, Any]:
        reasons = []
        if self.is_draining:
            reasons.append("the server is draining: it was told to end")
        elif not self.is_started:
            reasons.append("the server is starting")
        down = [worker.index for worker in self._workers.by_index.values() if not worker.is_up]
        reasons += [f"worker {index} is down" for index in down]
        counts: Counter[str] = Counter()
        amiss = []
        for model in self._registry:
            counts[model.status] += 1
            if model.state is State.LOADING:
                amiss.append(f"model {model.name} is loading")
            elif (model.reason or model.quarantine) and model.state is not State.EVICTED:  # its next request loads it
                amiss.append(f"model {model.name} is {model.status}: {model.reason or model.quarantine}")
        if len(amiss) > REASONS_MAX:
            amiss[REASONS_MAX:] = [f"and {len(amiss) - REASONS_MAX} more models"]
        return {
            "reasons": reasons + amiss,
            "workers": {"up": sum(shared), "wanted": self._config.workers},
            "models": dict(sorted(counts.items())),
        }
