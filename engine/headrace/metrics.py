"""Prometheus exposition of what the frontends and the board count. Nothing here runs but when somebody scrapes.

The counters themselves are plain words in the frontends' books and on the board (ext/layout.h), each written by one
process; this turns them into text through prometheus_client. Names follow https://prometheus.io/docs/practices/naming/.
"""

from collections.abc import Iterable, Mapping
from typing import Any

# What a frontend's stats() gives: key -> (name, help). Counters end in _total, gauges do not.
_FRONTEND = {
    "connections": ("headrace_connections", "open connections"),
    "accepted": ("headrace_accepted_connections_total", "connections accepted"),
    "unanswered": ("headrace_unanswered_requests", "requests under way"),
    "overloaded": ("headrace_overloaded_total", "requests refused because a queue or the arena was full"),
    "abandoned": ("headrace_abandoned_total", "requests whose client was gone before they were answered"),
    "timed_out": ("headrace_timed_out_total", "requests answered 504 at their deadline"),
    "redelivered": ("headrace_redelivered_total", "deliveries of requests whose worker had died"),
    "invalid_completions": ("headrace_invalid_completions_total", "answers of workers that named no request under way"),
    "slots_leased": ("headrace_slots_leased", "slots of the arena in use"),
    "arena_committed_bytes": ("headrace_arena_committed_bytes", "bytes of the arena that have pages"),
    "arena_exhausted": ("headrace_arena_exhausted_total", "times that no slot was free"),
    "incomplete_bytes": ("headrace_arena_incomplete_bytes", "slots whose bodies are still arriving"),
    "polls": ("headrace_frontend_polls_total", "looks at the completion rings"),
    "copied_bytes": (
        "headrace_frontend_copied_bytes_total",
        "bytes of bodies copied: out of the read buffer, small answers behind their heads",
    ),
    "parks": ("headrace_frontend_parks_total", "waits for completions that went to sleep"),
}
# What Board.page() gives for a worker.
_WORKER = {
    "requests": ("headrace_worker_requests_total", "requests taken"),
    "batches": ("headrace_worker_batches_total", "batches run"),
    "spins": ("headrace_worker_spins_total", "waits for requests that ended while spinning"),
    "parks": ("headrace_worker_parks_total", "waits for requests that went to sleep"),
    "bells": ("headrace_worker_bells_total", "system calls made to wake a frontend"),
    "copied_bytes": (
        "headrace_worker_copied_bytes_total",
        "bytes copied: answers into slots, arrays into batches, bodies for handlers",
    ),
    "dropped": ("headrace_worker_dropped_total", "requests not begun, since nobody waited for them any more"),
    "invalid_submissions": (
        "headrace_worker_invalid_submissions_total",
        "entries of frontends that named no slot, or nothing that was waited for",
    ),
    "held_slots": ("headrace_worker_held_slots_total", "answers sent while the model still held a view of the request"),
}
# What Admission.metrics() gives.
_MEMORY = {
    "limit_bytes": ("headrace_memory_budget_bytes", "memory that all processes together may take"),
    "used_bytes": ("headrace_memory_used_bytes", "measured, charged and reserved memory, as admission counts it"),
    "measured_bytes": ("headrace_memory_measured_bytes", "memory of all processes, as last measured"),
    "charged_bytes": ("headrace_memory_charged_bytes", "memory that loaded models are charged"),
    "reserved_bytes": ("headrace_memory_reserved_bytes", "memory set aside for loads under way"),
    "evictions": ("headrace_evictions_total", "models evicted"),
    "recyclings": ("headrace_recyclings_total", "workers replaced to free what they held beyond their models"),
    "refusals": ("headrace_refused_loads_total", "loads refused for lack of memory"),
}


class _Collector:
    def __init__(
        self,
        frontends: Mapping[int, Mapping[str, Any]],
        workers: Mapping[int, Mapping[str, Any]],
        models: Mapping[str, int],
        memory: Mapping[str, int],
    ) -> None:
        self.frontends, self.workers, self.models, self.memory = frontends, workers, models, memory

    def collect(self) -> Iterable[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        def family(name: str, help: str, label: str, samples: Mapping[str, float]) -> Any:
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            made = kind(name, help, labels=[label])
            for value_of_label, value in samples.items():
                made.add_metric([value_of_label], value)
            return made

        for sources, names, label in ((self.frontends, _FRONTEND, "frontend"), (self.workers, _WORKER, "worker")):
            for key, (name, help) in names.items():
                samples = {str(index): source[key] for index, source in sources.items()}
                yield family(name, help, label, samples)
        answers = CounterMetricFamily("headrace_answers_total", "answers sent", labels=["frontend", "status"])
        for index, stats in self.frontends.items():
            for status, count in stats["answers"].items():
                answers.add_metric([str(index), status], count)
        yield answers
        yield family("headrace_models", "models by state", "state", self.models)
        for key, (name, help) in _MEMORY.items():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            yield kind(name, help, value=self.memory[key])


def exposition(
    frontends: Mapping[int, Mapping[str, Any]],
    workers: Mapping[int, Mapping[str, Any]],
    models: Mapping[str, int],
    memory: Mapping[str, int],
) -> str:
    """Text format 0.0.4 of frontends' stats(), workers' Board.page(), the number of models in each state, and
    Admission.metrics()."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(frontends, workers, models, memory))
    return generate_latest(registry).decode()
