"""Settings that change while the server runs: GET and PUT /settings, and SIGHUP.

    words and values -- settings.changes() --> fields, all checked -- one write into the shared Config -->
        the supervisor's own parts      read it when they need a value
        frontends and workers           told by one message, acknowledged before the change is answered
        routes                          sent anew where a model's queue or time-out follows from a default

Invariants
1. All is checked before anything is changed. Only the number of workers can fail afterwards; the message says so then.
2. Once a change is answered, requests that come are treated by it. A worker that computes heeds it before its next
   batch; it is named in the answer, where it did not acknowledge in time.
3. Each change is a line of the log, with the old and the new value.

SIGHUP reads the file again that the server was started with, and applies what has changed in it since it was read
last: what was changed by the API meanwhile stays, unless the file changes it. The environment cannot be read again: a
process cannot be given another one.
"""

import asyncio
import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from headrace import log, settings
from headrace.config import KNOBS, short, show
from headrace.deployment import Deployment
from headrace.errors import ConfigError, HeadraceError, ModelNotFound, RequestError, WorkerLost
from headrace.frontends import Frontends
from headrace.registry import Model, Registry
from headrace.resizing import Resizing
from headrace.settings import CHANGEABLE, Settings
from headrace.workers import Worker, Workers

ACK_S = 1.0  # for workers, which hear between two batches
_ROUTED = frozenset({"queue", "timeout_ms"})

Document = dict[str, Any]

_log = log.get("supervisor")


class RunningSettings:
    def __init__(
        self,
        started_with: Settings,
        registry: Registry,
        workers: Workers,
        frontends: Frontends,
        deployment: Deployment,
    ) -> None:
        self._read = dataclasses.replace(started_with, config=dataclasses.replace(started_with.config))
        self._config = started_with.config
        self._origin = dict(started_with.origin)
        self._registry = registry
        self._workers = workers
        self._frontends = frontends
        self._deployment = deployment
        self._resizing = Resizing(self._config, registry, workers, frontends, deployment)
        self._lock = asyncio.Lock()

    def document(self) -> Document:
        """Every setting: its value as its variable would have it, where that came from, whether it can change now."""
        return {
            "settings": {
                short(name): {
                    "value": show(name, getattr(self._config, name)),
                    "from": self._origin[name],
                    "changeable": name in CHANGEABLE,
                    "variable": item.metadata["variable"],
                    "meaning": item.metadata["help"],
                }
                for name, item in KNOBS.items()
            }
        }

    async def change(self, given: Mapping[str, object], by: str) -> Document:
        """Make these changes; what was changed, from what to what. by: who asks, for the log and GET /settings.

        Raises RequestError that names every name and value that will not do, and what Resizing.resize() raises.
        """
        async with self._lock:
            try:
                fields = settings.changes(self._config, self._origin, given)
            except ConfigError as error:
                raise RequestError(str(error)) from None
            return await self._apply(fields, dict.fromkeys(fields, by))

    async def read_again(self) -> None:
        """SIGHUP: apply what has changed in the file that the server was started with."""
        if self._read.again is None:
            return
        async with self._lock:
            try:
                now = self._read.again()
            except ConfigError as error:
                _log.error("settings.kept", error=error)
                return
            changed = {name for name in KNOBS if _is_given_anew(name, self._read, now)}
            self._read = dataclasses.replace(now, again=self._read.again)
            for name in sorted(changed - CHANGEABLE):
                _log.warning("settings.needs_restart", name=short(name), value=show(name, getattr(now.config, name)))
            wanted = {name: getattr(now.config, name) for name in changed & CHANGEABLE}
            try:
                done = await self._apply(wanted, {name: f"SIGHUP, {now.origin[name]}" for name in wanted})
            except HeadraceError as error:
                _log.error("settings.not_all", error=error)
            else:
                _log.info("settings.read", changed=list(done["changed"]))

    async def change_model(self, model: Model, options: Mapping[str, Any], timeout_ms: int | None) -> Document:
        """Have a model's batches and its time-out be others. options: batch_size, batch_delay_ms; None: as it is."""
        async with model.work:
            if model.is_leaving:
                raise ModelNotFound(f"Model not found: {model.name}")
            before = {**{name: model.options.get(name) for name in options}, "timeout_ms": model.timeout_ms or None}
            model.options.update(options)
            if timeout_ms and timeout_ms < (old_ms := model.timeout_ms or self._config.timeout_ms):
                model.promised = old_ms, time.monotonic_ns() + old_ms * 1_000_000
            model.timeout_ms = timeout_ms or model.timeout_ms
            after = {**options, "timeout_ms": model.timeout_ms or None}
            for name in (name for name in after if after[name] != before[name]):
                _log.info("model.changed", model=model.name, name=name, old=before[name], new=after[name])
            message = {
                "op": "batching",
                "model": model.index,
                "options": {**model.options, "isolation": model.isolation},
            }
            here = [self._workers.by_index[index] for index in model.residents()] if options else []
            replies = await asyncio.gather(*(_ask(worker, message) for worker in here))
            for reply in replies:
                model.info.update(reply["info"] if reply is not None else {})
            await self._deployment.routes.publish(model)
        return _late({"status": f'Model "{model.name}" changed'}, here, replies)

    async def _apply(self, fields: Mapping[str, Any], by: Mapping[str, str]) -> Document:
        old = {name: getattr(self._config, name) for name in fields}
        changed = {name: value for name, value in fields.items() if value != old[name]}
        plain = {name: value for name, value in changed.items() if name != "workers"}
        was_shown = _log.is_enabled("INFO")
        if was_shown:  # else a level that silences this line had better not come first
            self._log(plain, old, by)
        self._config.adopt(plain)
        log.set_level(self._config.log_level)
        if not was_shown:
            self._log(plain, old, by)
        self._deployment.admission.budget.limit(self._config.memory_budget_bytes)
        self._origin.update({name: by[name] for name in plain})
        late = await self._tell(plain) if plain else {}
        if "workers" in changed:
            try:
                await self._resizing.resize(changed["workers"])
            except HeadraceError as error:
                error.args = (f"workers stays {self._config.workers}: {error}; all other changes hold",)
                raise
            self._log({"workers": changed["workers"]}, old, by)
            self._origin["workers"] = by["workers"]
            await self._frontends.broadcast({"op": "settings", "values": {"workers": self._config.workers}})
        document = {
            short(name): {"old": show(name, old[name]), "new": show(name, value)} for name, value in changed.items()
        }
        return {"status": "Settings changed" if changed else "Nothing to change", "changed": document, **late}

    def _log(self, changed: Mapping[str, Any], old: Mapping[str, Any], by: Mapping[str, str]) -> None:
        for name, value in changed.items():
            _log.info(
                "settings.changed", name=short(name), old=show(name, old[name]), new=show(name, value), by=by[name]
            )

    async def _tell(self, values: Mapping[str, Any]) -> Document:
        """Have all processes heed it. The document names workers that did not acknowledge in time."""
        message = {"op": "settings", "values": dict(values)}
        workers = [self._workers.by_index[index] for index in self._workers.up()]
        asking = asyncio.gather(*(_ask(worker, message) for worker in workers))
        await self._frontends.broadcast(message)
        replies = await asking
        for reply in replies:
            for index, info in (reply or {}).get("changed") or ():
                if (model := self._registry.find(index)) is not None:
                    model.info.update(info)
        if values.keys() & _ROUTED:
            await asyncio.gather(*map(self._deployment.routes.publish, self._registry))
        return _late({}, workers, replies)


async def _ask(worker: Worker, message: Document) -> Document | None:
    """The reply; None when it did not come in time, or the worker has died: its successor is born with what holds."""
    try:
        return await worker.call(message, ACK_S)
    except (TimeoutError, WorkerLost):
        return None


def _late(document: Document, workers: list[Worker], replies: list[Document | None]) -> Document:
    late = [worker.index for worker, reply in zip(workers, replies, strict=True) if reply is None and worker.is_up]
    return {**document, "workers_that_follow": late} if late else document


def _is_given_anew(name: str, before: Settings, now: Settings) -> bool:
    """Whether the sources say something else about it. What follows from the machine alone is not read again."""
    is_given = before.origin[name] != "default" or now.origin[name] != "default"
    return is_given and getattr(before.config, name) != getattr(now.config, name)
