"""The verdicts of the benches of overload, slow clients and recovery can fail."""

import pytest

from bench import overload, recovery, slow_clients

NOTHING = dict.fromkeys(("refused", "wrong", "lost", "malformed", "late", "unsent"), 0)


def run(times=3, goodput=95.0, statuses=("200", "503"), **failed):
    return {
        "round": 1,
        "queue": 100,
        "times": times,
        "capacity_per_s": 100.0,
        "goodput_per_s": goodput,
        "failed": NOTHING | {"refused": 200} | failed,
        "statuses": dict.fromkeys(statuses, 100),
    }


def test_goodput_near_the_capacity_and_refusals_are_no_problem():
    assert overload.judge([run(times) for times in (1, 2, 3)]) == []
    assert overload.judge([run(times=1, goodput=80.0)]) == []  # nobody can answer more than is asked


def test_goodput_that_sinks_under_load_is_one():
    (problem,) = overload.judge([run(goodput=60.0), run(goodput=85.0), run(goodput=95.0)])
    assert "85 % of the capacity" in problem


@pytest.mark.parametrize("bad", [{"lost": 1}, {"wrong": 1}, {"late": 1}, {"statuses": ("200", "500", "503")}])
def test_whatever_is_neither_answered_nor_refused_is_one(bad):
    assert len(overload.judge([run(**bad)])) == 1


def client(is_slow, p99_ms, **failed):
    return {
        "round": 1,
        "slow_clients": 2000 * is_slow,
        "failed": NOTHING | failed,
        "latency_ms": {"p99": p99_ms},
    }


def test_slow_clients_may_cost_twice_the_quiet_p99_and_no_more():
    assert slow_clients.judge([client(False, 1.0), client(True, 2.0)]) == []
    assert len(slow_clients.judge([client(False, 1.0), client(True, 2.1)])) == 1
    assert len(slow_clients.judge([client(False, 1.0), client(True, 1.0, lost=1)])) == 1


def test_a_recovery_has_a_hundred_milliseconds_beside_the_loads():
    assert recovery.judge([{"without_loads_ms": ms} for ms in (20.0, 99.0, 500.0)]) == []
    assert len(recovery.judge([{"without_loads_ms": ms} for ms in (20.0, 101.0, 500.0)])) == 1
