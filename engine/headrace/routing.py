"""Where frontends are to send the requests for a model. Computed when it is sent, so that the last one is true.

A route leads to the workers whose replicas are resident; to none, its requests wait; with a refusal they are answered.
"""

import math

from headrace.config import Config
from headrace.control import Message
from headrace.frontends import Frontends
from headrace.labels import Labels
from headrace.registry import Model, Registry


class Routes:
    def __init__(self, config: Config, registry: Registry, frontends: Frontends, labels: Labels) -> None:
        self._config = config
        self._registry = registry
        self._frontends = frontends
        self._labels = labels

    def all(self) -> list[Message]:
        """What a new frontend has to know."""
        return [self._route(model) for model in self._registry if model.is_routed]

    async def publish(self, model: Model) -> None:
        """Tell the frontends where it is now; nowhere means that requests wait for it."""
        if model.is_routed:
            await self._frontends.broadcast(self._route(model))

    async def withdraw(self, model: Model) -> None:
        if model.is_routed:
            model.is_routed = False
            await self._frontends.broadcast({"op": "unroute", "name": model.name})

    def _route(self, model: Model) -> Message:
        return {
            "op": "route",
            "name": model.name,
            "model": model.index,
            "workers": [] if model.quarantine else model.residents(),
            "queue": self._config.queue if model.most else 0,  # scaled to none: there is nothing to wait for
            "timeout_ms": model.timeout_ms or self._config.timeout_ms,
            "default": model.is_default,
            "refusal": f"model {model.name} is set aside: {model.quarantine}" if model.quarantine else "",
            "retry_after_s": math.ceil(model.quarantined_for_s),
            "named": self._labels.is_named(model.index, model.name),
        }
