"""Histogram: what it says of a value is within 1/256 of it, and merging is adding."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace._load import Histogram

VALUES = st.lists(st.integers(0, 2**63), min_size=1, max_size=200)


def filled(values):
    found = Histogram()
    for value in values:
        found.add(value)
    return found


@given(VALUES)
def test_each_rank_is_within_a_256th_of_the_exact_value(values):
    found = filled(values)
    for rank, exact in enumerate(sorted(values), 1):
        assert abs(found.ranked_ns(rank) - exact) <= exact / 256
    assert (found.min_ns, found.max_ns, found.count) == (min(values), max(values), len(values))
    assert (found.ranked_ns(1), found.ranked_ns(len(values))) == (min(values), max(values))


@given(st.integers(0, 2**64 - 1))
def test_a_value_lies_in_the_bucket_that_counts_it(value):
    ((least, width, count),) = filled([value]).buckets()
    assert count == 1
    assert least <= value < least + width
    assert width == 1 or width <= least / 128


def test_buckets_leave_no_gap_and_do_not_overlap():
    edges = [2**power + offset for power in range(64) for offset in (-1, 0, 1) if 2**power + offset < 2**64]
    rows = filled(edges + list(range(1000))).buckets()
    for (least, width, _), (following, _, _) in itertools.pairwise(rows):
        assert least + width <= following


@given(VALUES, VALUES)
def test_merging_is_counting_together(one, other):
    merged = filled(one)
    merged.merge(filled(other))
    assert merged.dump() == filled(one + other).dump()


def test_an_empty_one_merges_without_effect():
    found = filled([5, 7])
    found.merge(Histogram())
    assert (found.count, found.min_ns, found.max_ns, found.mean_ns) == (2, 5, 7, 6.0)
    empty = Histogram()
    empty.merge(found)
    assert empty.dump() == found.dump()


def test_dump_and_load():
    draw = random.Random(3)
    found = filled(draw.randrange(10**9) for _ in range(1000))
    assert Histogram.load(found.dump()).dump() == found.dump()


@pytest.mark.parametrize(
    "dumped",
    [
        {},
        {"count": 1, "sum_ns": 1, "min_ns": 1, "max_ns": 1, "counts": {}},
        {"count": 1, "sum_ns": 1, "min_ns": 1, "max_ns": 1, "counts": {"99999": 1}},
        {"count": 1, "sum_ns": 1, "min_ns": 1, "max_ns": 1, "counts": {"-1": 1}},
        {"count": -1, "sum_ns": 1, "min_ns": 1, "max_ns": 1, "counts": {}},
        {"count": 1, "sum_ns": "x", "min_ns": 1, "max_ns": 1, "counts": {"1": 1}},
        {"count": 1, "sum_ns": 1, "min_ns": 1, "max_ns": 1, "counts": [1]},
    ],
)
def test_what_was_not_dumped_is_refused(dumped):
    with pytest.raises(ValueError, match="no dumped histogram"):
        Histogram.load(dumped)


def test_counts_of_many_and_ranks_beyond():
    found = Histogram()
    found.add(1000, 99)
    found.add(10**9, 1)
    found.add(5, 0)
    assert found.count == 100
    assert abs(found.ranked_ns(99) - 1000) <= 1000 / 256
    assert math.isclose(found.mean_ns, (99 * 1000 + 10**9) / 100)
    for rank in (0, 101):
        with pytest.raises(IndexError, match=f"rank {rank} is not from 1 to 100"):
            found.ranked_ns(rank)
