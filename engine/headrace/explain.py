"""Why a model is or is not resident: what it is at and why, what it costs, what a load would displace, what went wrong.

What would be evicted is asked of admission itself, so it is what would really happen. A name that is registered no more
is explained as long as its history or its errors are remembered: a load that failed leaves nothing else behind.
"""

import time
from typing import Any

from headrace import eviction
from headrace.admission import Outlook
from headrace.config import Config
from headrace.deployment import Deployment
from headrace.errors import ModelNotFound
from headrace.last_errors import LastErrors
from headrace.registry import Model, Registry, State
from headrace.units import about_size

HISTORY_MOST = 20

Document = dict[str, Any]


class Explainer:
    def __init__(self, config: Config, registry: Registry, deployment: Deployment, errors: LastErrors) -> None:
        self._config = config
        self._registry = registry
        self._deployment = deployment
        self._errors = errors

    async def explain(self, name: str) -> Document:
        """The document of /models/NAME/explain. Raises ModelNotFound for a name of which nothing is known."""
        errors = [{**record, "time": iso_time(record["time"])} for record in self._errors.of(name)]
        history = [
            {**record, "time": iso_time(record["time"])}
            for record in reversed(self._deployment.history.records(name)[-HISTORY_MOST:])
        ]
        if name not in self._registry:
            if not errors and not history:
                raise ModelNotFound(f"Model not found: {name}")
            because = ["it is not registered: load it with POST /models"]
            if history:
                last = history[0]
                because.append(
                    f"at {last['time']} it was {last['event']}" + (f": {last['reason']}" * bool(last["reason"]))
                )
            return {
                "model": name,
                "status": "absent",
                "because": because,
                "quarantine": None,
                "memory": None,
                "replicas": [],
                "room": None,
                "history": history,
                "errors": errors,
            }
        model = self._registry.get(name)
        admission = self._deployment.admission
        outlook = await admission.outlook(model)
        charges = admission.budget.charges_of(model.index)
        replicas = [
            {
                "worker": worker,
                "status": replica.state.value,
                "since": iso_time(replica.since),
                "charge_bytes": charges.get(worker, 0),
                "worker_bytes": admission.budget.measured_of(worker),
            }
            for worker, replica in sorted(model.replicas.items())
        ]
        return {
            "model": name,
            "status": model.status,
            "because": self._because(model),
            "quarantine": {"reason": model.quarantine, "for_s": model.quarantined_for_s} if model.quarantine else None,
            "memory": {
                "charge_bytes": sum(charges.values()),
                "replica_bytes": model.needs_bytes,
                "artifact_bytes": outlook.artifact_bytes,
                "estimate_bytes": outlook.needed_bytes,
                "budget_bytes": admission.budget.limit_bytes,
                "used_bytes": admission.budget.used_bytes,
            },
            "replicas": replicas,
            "room": None if model.state is State.RESIDENT else self._room(outlook),
            "history": history,
            "errors": errors,
        }

    def _because(self, model: Model) -> list[str]:
        """In sentences: its state, then whether it may be evicted."""
        said = {
            State.REGISTERED: "it is registered, and not loaded yet",
            State.LOADING: "it is being loaded",
            State.RESIDENT: f"it is loaded on {_workers(model)}" if model.residents() else "no worker has it now",
            State.EVICTED: "it was taken from its workers; its next request loads it again",
            State.UNLOADING: "it is being unloaded",
            State.FAILED: "its load failed",
        }[model.state]
        lines = [said + (f": {model.reason}" if model.reason else "")]
        if model.quarantine:
            lines.append(f"it is set aside for {model.quarantined_for_s:g} s: {model.quarantine}")
        if model.state is State.RESIDENT:
            lines.append(self._staying(model))
        return lines

    def _staying(self, model: Model) -> str:
        config = self._config
        if config.eviction == "none":
            return "nothing is evicted here (HEADRACE_EVICTION=none)"
        if model.is_pinned:
            return "it is pinned, so it is never evicted"
        if model.in_flight:
            return f"it has {model.in_flight} requests under way, so it is not evicted now"
        queue = eviction.order(self._registry, time.monotonic_ns(), config.min_resident_ms * 1_000_000)
        if model not in queue:
            return "one of its replicas is changing, so it is not evicted now"
        return f"it is number {queue.index(model) + 1} of {len(queue)} models that would go if room were needed"

    def _room(self, outlook: Outlook) -> Document:
        now_ns = time.monotonic_ns()
        charge_of = self._deployment.admission.budget.charge_of
        evict = [
            {"model": it.name, "charge_bytes": charge_of(it.index), "idle_s": idle_s(it, now_ns)}
            for it in outlook.victims
        ]
        return {
            "needed_bytes": outlook.needed_bytes,
            "free_bytes": max(0, outlook.free_bytes),
            "most_bytes": max(0, outlook.most_bytes),
            "fits": outlook.needed_bytes <= outlook.free_bytes,
            "evict": evict,
            "verdict": self._verdict(outlook),
        }

    def _verdict(self, outlook: Outlook) -> str:
        needed, free = about_size(outlook.needed_bytes), about_size(max(0, outlook.free_bytes))
        if outlook.needed_bytes <= outlook.free_bytes:
            return f"{needed} are needed and {free} are free: it fits"
        if outlook.needed_bytes > outlook.most_bytes:
            most = about_size(max(0, outlook.most_bytes))
            return f"{needed} are needed and models can have {most} at most: raise HEADRACE_MEMORY_BUDGET"
        short = f"{needed} are needed and {free} are free"
        if self._config.eviction == "none":
            return f"{short}, and nothing is evicted (HEADRACE_EVICTION=none): unload a model"
        if not outlook.victims:
            return f"{short}, and no other model is idle and may be evicted"
        return f"{short}: {len(outlook.victims)} models would be evicted"


def idle_s(model: Model, now_ns: int) -> float | None:
    """Seconds since its latest request, or since it was loaded; None when it never was."""
    latest_ns = max(model.used_ns, model.loaded_ns)
    return round((now_ns - latest_ns) / 1e9, 3) if latest_ns else None


def iso_time(seconds: float) -> str:
    ms = int(seconds * 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000)) + f".{ms % 1000:03d}Z"


def _workers(model: Model) -> str:
    residents = model.residents()
    return f"worker{'s' * (len(residents) > 1)} {', '.join(map(str, residents))}"
