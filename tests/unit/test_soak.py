"""The verdict of a soak can fail: what its judge says of doctored series."""

import pytest

from bench import soak

DONE = {"plain": 9, "chunked": 9, "pipelined": 9, "one shot": 9, "vanished": 9, "loads": 9, "kills": 9}


def samples(**series):
    """A hundred samples and one at rest. By name: a function of the second; the others are flat."""
    flat = {"memory_bytes": 200e6, "descriptors": 90.0, "slots": 5.0}
    found = [
        {"second": second, **flat, **{name: value(second) for name, value in series.items()}} for second in range(100)
    ]
    return [*found, {"second": 100, **flat, "slots": 0.0}]


def test_flat_curves_and_right_answers_are_no_problem():
    assert soak.judge(samples(), DONE) == []


@pytest.mark.parametrize("kind", ["wrong", "lost", "refused", "stuck clients"])
def test_a_single_bad_answer_is_one(kind):
    assert soak.judge(samples(), DONE | {kind: 1}) == [f"1 {kind}"]


@pytest.mark.parametrize(
    ("name", "curve"),
    [
        ("memory_bytes", lambda second: 200e6 + 1e6 * second),
        ("descriptors", lambda second: 90 + second // 3),
        ("slots", lambda second: 5 + second),
    ],
)
def test_a_curve_that_grows_is_one(name, curve):
    (problem,) = soak.judge(samples(**{name: curve}), DONE)
    assert problem.startswith(f"{name} grew from ")


@pytest.mark.parametrize(
    "curve",
    [
        lambda second: 400e6 if second < 20 else 200e6,  # a warm-up
        lambda second: 900e6 if second % 10 == 0 else 200e6,  # peaks
    ],
)
def test_a_curve_that_falls_or_has_peaks_is_none(curve):
    assert soak.judge(samples(memory_bytes=curve), DONE) == []


def test_slots_that_stay_leased_when_nobody_asks_are_one():
    series = samples()
    series[-1]["slots"] = 1.0
    assert soak.judge(series, DONE) == ["1 slots are leased though nobody asks"]


@pytest.mark.parametrize("kind", DONE)
def test_a_soak_that_left_something_out_is_one(kind):
    assert soak.judge(samples(), DONE | {kind: 0}) == [f"not done at all: {kind}"]


def test_kills_may_be_left_out_on_purpose():
    assert soak.judge(samples(), DONE | {"kills": 0}, has_kills=False) == []


def test_times_to_serve_again_are_read_from_the_log():
    log = (
        "2026-01-01T00:00:00.000Z INFO supervisor worker.serving worker=0 after_ms=41.5 of_which_loads_ms=20.1\n"
        "2026-01-01T00:00:01.000Z INFO supervisor worker.up worker=0\n"
        "2026-01-01T00:00:02.000Z INFO supervisor worker.serving worker=1 after_ms=9.0 of_which_loads_ms=2.0\n"
    )
    assert soak.serving_ms(log) == [9.0, 41.5]
    assert soak.quantiles([9.0, 41.5]) == {"count": 2, "median": 25.25, "p99": 9.0, "max": 41.5}
    assert soak.quantiles([])["median"] is None
