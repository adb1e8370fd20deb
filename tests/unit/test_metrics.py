"""metrics: what is counted becomes families that Prometheus reads and promtool finds nothing amiss in."""

import re
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from headrace import metrics
from headrace.counts import Counts, Histogram

ROOT = Path(__file__).resolve().parents[2]
TIMES = [10_000, 20_000]


def counted(requests: int) -> dict:
    """A tally of requests that each took 15 us, of which 5 in the queue, and ran two by two."""
    slow, fast = [15_000 * requests, [0, requests, 0]], [5_000 * requests, [requests, 0, 0]]
    return {
        "statuses": {"200": requests - 1, "503": 1} if requests else {},
        "request_bytes": 10 * requests,
        "response_bytes": 20 * requests,
        "copied_bytes": 30 * requests,
        "request_seconds": slow,
        "queue_seconds": fast,
        "compute_seconds": fast,
        "batch_rows": [2 * requests, [0, requests, 0]],
    }


def tally(in_flight: int = 0, rest: int = 0, **models: int) -> dict:
    return {
        "time_bounds_ns": TIMES,
        "row_bounds": [1, 2],
        "models": {name: counted(requests) for name, requests in models.items()},
        "rest": counted(rest),
        "in_flight": dict.fromkeys(models, 1),
        "in_flight_total": in_flight,
    }


def stats() -> dict:
    return {
        **dict.fromkeys(metrics._FRONTEND, 1),
        "answers": {"2xx": 5},
        "slots": {"2112": {"leased": 1, "warm": 3}},
        "links": {"0": [2, 7]},
    }


def snapshot(*tallies: dict, **changes) -> metrics.Snapshot:
    page = dict.fromkeys(metrics._WORKER, 1) | {
        "state": "idle",
        "state_since_ns": 1_000_000_000,
        "busy_ns": 250_000_000,
    }
    fields = {
        "frontends": {0: stats()},
        "tallies": tallies or (tally(m=3),),
        "workers": {0: page, 1: page | {"state": "running"}},
        "now_ns": 3_000_000_000,
        "restarts": {"SIGKILL": 2},
        "states": {"resident": 1},
        "models": {"m": {"memory_bytes": 5, "replicas": 1}, "other": {"memory_bytes": 0, "replicas": 0}},
        "memory": dict.fromkeys([*metrics._MEMORY, "evictions_room", "evictions_over_budget"], 4),
        "counts": Counts(),
    }
    return metrics.Snapshot(**(fields | changes))


def read(seen: metrics.Snapshot) -> dict[str, float]:
    """Value by `name{label=value,...}`."""
    found = {}
    for family in text_string_to_metric_families(metrics.exposition(seen)):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}"
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return found


def families() -> list:
    return list(text_string_to_metric_families(metrics.exposition(snapshot())))


def test_a_models_requests_are_told_with_their_times():
    found = read(snapshot(tally(m=4)))
    assert found["headrace_requests_total{model=m,status=200}"] == 3
    assert found["headrace_requests_total{model=m,status=503}"] == 1
    assert found["headrace_request_seconds_bucket{le=1e-05,model=m}"] == 0
    assert found["headrace_request_seconds_bucket{le=2e-05,model=m}"] == 4
    assert found["headrace_request_seconds_bucket{le=+Inf,model=m}"] == 4
    assert found["headrace_request_seconds_count{model=m}"] == 4
    assert found["headrace_request_seconds_sum{model=m}"] == pytest.approx(60e-6)
    assert found["headrace_batch_rows_bucket{le=2.0,model=m}"] == 4
    assert found["headrace_batch_rows_sum{model=m}"] == 8


def test_frontends_are_added_up_and_the_rest_is_other():
    found = read(snapshot(tally(m=4, rest=2, in_flight=5), tally(m=3, n=1, in_flight=2)))
    assert found["headrace_requests_total{model=m,status=200}"] == 5
    assert found["headrace_requests_total{model=n,status=503}"] == 1
    assert found["headrace_queue_seconds_bucket{le=1e-05,model=m}"] == 7
    assert found["headrace_request_seconds_count{model=other}"] == 2
    assert found["headrace_request_bytes_total{model=other}"] == 20
    assert found["headrace_copied_bytes_total{model=other}"] == 60
    assert found["headrace_model_in_flight{model=m}"] == 2
    assert found["headrace_model_in_flight{model=other}"] == 7 - 2 - 1


def test_a_worker_that_runs_is_busy_until_now():
    found = read(snapshot())
    assert found["headrace_worker_busy_seconds_total{worker=0}"] == pytest.approx(0.25)
    assert found["headrace_worker_busy_seconds_total{worker=1}"] == pytest.approx(2.25)
    assert found["headrace_worker_heartbeat_age_seconds{worker=1}"] == pytest.approx(2)
    assert found["headrace_worker_restarts_total{reason=SIGKILL}"] == 2


def test_without_a_frontend_the_rest_is_told():
    found = read(snapshot(frontends={}, tallies=()))
    assert found["headrace_memory_budget_bytes{}"] == 4
    assert not [name for name in found if name.startswith("headrace_request_seconds")]


def test_names_and_help_are_as_promtool_wants_them():
    """The rules of promtool's linter (prometheus/client_golang, promlint), as far as they concern these families."""
    for family in families():
        assert re.fullmatch(r"headrace_[a-z]+(_[a-z]+)*", family.name), family.name
        assert family.documentation, family.name
        assert not re.search(r"_(ms|us|ns|kb|mb|kib|mib|milliseconds|minutes|count|bucket|sum|total)$", family.name)
        names = {sample.name for sample in family.samples}
        if family.type == "counter":
            assert names <= {f"{family.name}_total"}, family.name
        elif family.type == "gauge":
            assert names <= {family.name}
        else:
            assert family.type == "histogram", family.name
        for sample in family.samples:
            assert all(re.fullmatch(r"[a-z]+", label) for label in sample.labels)
            assert "le" not in sample.labels or sample.name.endswith("_bucket")


def test_the_page_on_operations_lists_all_metrics_and_no_other():
    listed = Counter(re.findall(r"^\| `(headrace_\w+)`", (ROOT / "docs/operations.md").read_text(), re.MULTILINE))
    told = {family.name + ("_total" if family.type == "counter" else "") for family in families()}
    assert set(listed) == told
    assert set(listed.values()) == {1}


def test_a_histogram_counts_a_value_up_to_its_bound():
    histogram = Histogram([1, 2])
    for value in (0, 1, 1.5, 2, 3):
        histogram.observe(value)
    assert histogram.buckets == [2, 2, 1]
    assert histogram.sum == 7.5
