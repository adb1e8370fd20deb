"""labels: few models are told of by name, the busiest of them, and no count moves from one series to another."""

from hypothesis import given
from hypothesis import strategies as st

from headrace.labels import OTHER, Labels


def names(*indices: int) -> dict[int, str]:
    return {index: f"m{index}" for index in indices}


def test_the_first_ones_are_named_until_there_is_no_more_room():
    labels = Labels(2)
    assert [labels.is_named(index, f"m{index}") for index in (1, 2, 3, 1)] == [True, True, False, True]


def test_a_model_that_bears_the_name_of_the_rest_never_is():
    assert not Labels(2).is_named(1, OTHER)
    labels = Labels(1)
    assert labels.rank({1: 100}, {1: OTHER}) == []


def test_none_is_named_where_none_may_be():
    labels = Labels(0)
    assert not labels.is_named(1, "m1")
    assert labels.rank({1: 5}, names(1)) == []


def test_a_busier_model_takes_the_place_of_the_least_busy_one():
    labels = Labels(2)
    assert labels.is_named(1, "m1")
    assert labels.is_named(2, "m2")
    assert labels.rank({1: 10, 2: 4, 3: 8}, names(1, 2, 3)) == []  # not worth it: not more than twice as busy
    assert labels.rank({1: 10, 2: 0, 3: 8}, names(1, 2, 3)) == [2, 3]
    assert [labels.is_named(index, f"m{index}") for index in (1, 2, 3)] == [True, False, True]


def test_the_place_of_a_model_that_is_gone_is_free():
    labels = Labels(1)
    assert labels.is_named(1, "m1")
    assert labels.rank({2: 1}, names(2)) == [2]
    labels.forget(2)
    assert labels.is_named(3, "m3")


@given(st.integers(0, 4), st.lists(st.dictionaries(st.integers(1, 9), st.integers(0, 1000)), max_size=8))
def test_there_are_never_more_and_a_change_is_told(most, looks):
    labels = Labels(most)
    known = names(*range(1, 10))
    named = {index for index in known if labels.is_named(index, known[index])}
    for asked in looks:
        changed = labels.rank(asked, known)
        now = set(labels._named)
        assert len(now) <= most
        assert set(changed) == named ^ now
        named = now
