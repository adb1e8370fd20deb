"""Prometheus exposition of what the processes count. Nothing here runs but when somebody scrapes.

The counters themselves are plain words in the frontends' books (ext/tally.h) and on the board (ext/layout.h), each
written by one process; this turns them into text through prometheus_client. Names follow
https://prometheus.io/docs/practices/naming/. docs/operations.md lists them all; a test compares.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from headrace import __version__
from headrace.counts import Counts
from headrace.labels import OTHER

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
    "access_log_dropped": (
        "headrace_access_log_dropped_total",
        "lines of the access log that were dropped, as nobody read the log in time",
    ),
    "traces_dropped": ("headrace_traces_dropped_total", "sampled requests of which no spans could be made in time"),
    "parks": ("headrace_frontend_parks_total", "waits for completions that went to sleep"),
    "bells": ("headrace_frontend_bells_total", "system calls made to wake a worker"),
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
    "recyclings": ("headrace_recyclings_total", "workers replaced to free what they held beyond their models"),
    "refusals": ("headrace_refused_loads_total", "loads refused for lack of memory"),
}


# Of each model that is told of by name, and of all others together; the keys are those of a frontend's tally() report.
_HISTOGRAMS = {
    "request_seconds": ("headrace_request_seconds", "time from a request's head to the hand-over of its answer", 1e9),
    "queue_seconds": ("headrace_queue_seconds", "time from a request's last byte to the beginning of its batch", 1e9),
    "compute_seconds": ("headrace_compute_seconds", "time from the beginning of a request's batch to its answer", 1e9),
    "batch_rows": ("headrace_batch_rows", "requests that ran together, counted for each of them", 1),
}
_BYTES = {
    "request_bytes": ("headrace_request_bytes_total", "bytes of request bodies that were answered"),
    "response_bytes": ("headrace_response_bytes_total", "bytes of answers' bodies"),
    "copied_bytes": ("headrace_copied_bytes_total", "bytes of both that the server copied in user space"),
}
_MODEL = {
    "memory_bytes": ("headrace_model_memory_bytes", "memory that the model's replicas are charged"),
    "replicas": ("headrace_model_replicas", "workers that can run the model"),
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is told.

    frontends: stats() by index; tallies: tally() of each; workers: Board.page() by index, at now_ns (CLOCK_MONOTONIC);
    restarts: of workers, by reason; states: number of models in each; models: what each named model has, and OTHER;
    memory: Admission.metrics(); counts: the supervisor's own.
    """

    frontends: Mapping[int, Mapping[str, Any]]
    tallies: Sequence[Mapping[str, Any]]
    workers: Mapping[int, Mapping[str, Any]]
    now_ns: int
    restarts: Mapping[str, int]
    states: Mapping[str, int]
    models: Mapping[str, Mapping[str, int]]
    memory: Mapping[str, int]
    counts: Counts


def exposition(snapshot: Snapshot) -> str:
    """Text format 0.0.4."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot))
    return generate_latest(registry).decode()


class _Collector:
    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def collect(self) -> Iterator[Any]:
        seen = self.snapshot
        version = {(__version__, "{}.{}.{}".format(*sys.version_info)): 1}
        yield _family("headrace_build_info", "the server's version", version, "version", "python")
        for key, (name, help) in _FRONTEND.items():
            yield _family(name, help, {(str(index),): it[key] for index, it in seen.frontends.items()}, "frontend")
        yield from self._of_frontends()
        yield from self._of_models()
        for key, (name, help) in _WORKER.items():
            yield _family(name, help, {(str(index),): page[key] for index, page in seen.workers.items()}, "worker")
        yield from self._of_workers()
        yield _family("headrace_models", "models by state", {(state,): n for state, n in seen.states.items()}, "state")
        for key, (name, help) in _MEMORY.items():
            yield _family(name, help, {(): seen.memory[key]})
        yield from self._of_supervisor()

    def _of_frontends(self) -> Iterator[Any]:
        """What a frontend tells by more than its own number."""
        answers, leased, warm, depths, under_way = {}, {}, {}, {}, {}
        for index, stats in self.snapshot.frontends.items():
            frontend = str(index)
            answers.update({(frontend, status): count for status, count in stats["answers"].items()})
            for stride, slots in stats["slots"].items():
                leased[frontend, stride], warm[frontend, stride] = slots["leased"], slots["warm"]
            for worker, (depth, count) in stats["links"].items():
                depths[frontend, worker], under_way[frontend, worker] = depth, count
        yield _family("headrace_answers_total", "answers sent", answers, "frontend", "status")
        by_class = ("frontend", "class")
        yield _family("headrace_arena_slots", "slots in use, by their size in bytes", leased, *by_class)
        yield _family("headrace_arena_warm_slots", "slots that have pages, by their size in bytes", warm, *by_class)
        by_worker = ("frontend", "worker")
        yield _family("headrace_ring_depth", "requests that the worker has not taken yet", depths, *by_worker)
        yield _family("headrace_ring_under_way", "requests that the worker has not answered yet", under_way, *by_worker)

    def _of_models(self) -> Iterator[Any]:
        from prometheus_client.core import HistogramMetricFamily

        tallies = self.snapshot.tallies
        models = _merged(tallies)
        statuses = {(model, status): n for model, it in models.items() for status, n in it["statuses"].items()}
        help = "requests answered; 499: the client was gone before"
        yield _family("headrace_requests_total", help, statuses, "model", "status")
        for key, (name, help, unit) in _HISTOGRAMS.items():
            family = HistogramMetricFamily(name, help, labels=["model"])
            for model, it in models.items():
                total, buckets = it[key]
                bounds = tallies[0]["row_bounds" if key == "batch_rows" else "time_bounds_ns"]
                family.add_metric([model], _cumulative([bound / unit for bound in bounds], buckets), total / unit)
            yield family
        for key, (name, help) in _BYTES.items():
            yield _family(name, help, {(model,): it[key] for model, it in models.items()}, "model")
        for key, (name, help) in _MODEL.items():
            yield _family(name, help, {(model,): it[key] for model, it in self.snapshot.models.items()}, "model")
        in_flight: dict[tuple[str, ...], float] = {(OTHER,): sum(tally["in_flight_total"] for tally in tallies)}
        for tally in tallies:
            for model, count in tally["in_flight"].items():
                in_flight[model,] = in_flight.get((model,), 0) + count
                in_flight[OTHER,] -= count
        yield _family("headrace_model_in_flight", "requests under way", in_flight, "model")

    def _of_workers(self) -> Iterator[Any]:
        busy, ages = {}, {}
        for index, page in self.snapshot.workers.items():
            age_ns = max(0, self.snapshot.now_ns - page["state_since_ns"])
            is_busy = page["state"] in ("running", "loading")
            busy[str(index),] = (page["busy_ns"] + (age_ns if is_busy else 0)) / 1e9
            ages[str(index),] = age_ns / 1e9
        yield _family("headrace_worker_busy_seconds_total", "time spent on batches and loads", busy, "worker")
        yield _family("headrace_worker_heartbeat_age_seconds", "time since its loop last moved", ages, "worker")
        restarts = {(reason,): count for reason, count in self.snapshot.restarts.items()}
        yield _family("headrace_worker_restarts_total", "workers that ended and were replaced", restarts, "reason")

    def _of_supervisor(self) -> Iterator[Any]:
        from prometheus_client.core import HistogramMetricFamily

        counts = self.snapshot.counts
        loads = {(outcome,): count for outcome, count in counts.loads.items()}
        yield _family("headrace_loads_total", "loads that came to an end", loads, "outcome")
        changes = {(change,): count for change, count in counts.replica_changes.items()}
        help = "replicas that came or went because of the load"
        yield _family("headrace_replica_changes_total", help, changes, "change")
        evictions = {(reason,): self.snapshot.memory[f"evictions_{reason}"] for reason in ("room", "over_budget")}
        help = "models evicted: to make room for another, or since the budget was exceeded"
        yield _family("headrace_evictions_total", help, evictions, "reason")
        for name, help, histogram in (
            ("headrace_load_seconds", "time that successful loads took", counts.load_s),
            (
                "headrace_eviction_age_seconds",
                "time since the last request or load of what was evicted",
                counts.eviction_age_s,
            ),
        ):
            family = HistogramMetricFamily(name, help, labels=[])
            family.add_metric([], _cumulative(histogram.bounds, histogram.buckets), histogram.sum)
            yield family


def _family(name: str, help: str, samples: Mapping[Any, float], *labels: str) -> Any:
    """A family of samples by their labels' values; a counter when its name ends in _total, else a gauge."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    family = kind(name, help, labels=labels)
    for values, value in samples.items():
        family.add_metric(values, value)
    return family


def _cumulative(bounds: Sequence[float], buckets: Sequence[int]) -> list[tuple[str, float]]:
    from prometheus_client.utils import floatToGoString

    names = [*map(floatToGoString, bounds), "+Inf"]
    return list(zip(names, map(float, accumulate(buckets)), strict=True))


def _merged(tallies: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What all frontends count of each model, added up; the rest under OTHER."""
    merged: dict[str, dict[str, Any]] = {}
    for tally in tallies:
        for model, counts in (*tally["models"].items(), (OTHER, tally["rest"])):
            merged[model] = _sum(merged[model], counts) if model in merged else counts
    return merged


def _sum(one: Any, other: Any) -> Any:
    """Two reports of one shape added up, down to their numbers."""
    if isinstance(one, dict):
        return {key: _sum(one.get(key, 0), other.get(key, 0)) for key in one | other}
    if isinstance(one, list):
        return [_sum(left, right) for left, right in zip(one, other, strict=True)]
    return one + other
