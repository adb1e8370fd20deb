"""When a model gets a replica more, or gives one up."""

import pytest

from headrace.scaling import LOOKS, PAUSE_S, Trend

IDLE_S = 60.0


class Model:
    """A model's trend, with a clock that goes half a second a look."""

    def __init__(self, at_work: int = 1) -> None:
        self.trend = Trend(0.0)
        self.now_s = 0.0
        self.at_work = at_work

    def looks(self, count: int, under_way: int, replicas: int) -> list[int]:
        """The changes wanted at so many looks; replicas stay as they are."""
        changes = []
        for _ in range(count):
            self.now_s += 0.5
            changes.append(self.trend.look(under_way, replicas, self.at_work, self.now_s, IDLE_S))
        return changes


def test_a_queue_that_stays_brings_a_replica_and_a_burst_does_not() -> None:
    model = Model()
    assert model.looks(LOOKS - 1, 8, 1) == [0] * (LOOKS - 1)
    assert model.looks(1, 1, 1) == [0]  # nobody waited
    assert model.looks(LOOKS, 8, 1) == [0] * (LOOKS - 1) + [1]
    assert model.looks(LOOKS, 8, 2) == [0] * (LOOKS - 1) + [1]  # looked at anew since the change


def test_company_that_a_model_waits_for_is_no_queue() -> None:
    assert 1 not in Model(at_work=32).looks(20, 32, 1)
    assert 1 in Model(at_work=32).looks(LOOKS, 33, 1)


@pytest.mark.parametrize(("under_way", "replicas"), [(0, 2), (1, 2), (2, 3)])
def test_a_replica_that_nobody_needed_for_long_goes(under_way: int, replicas: int) -> None:
    changes = Model().looks(int(2 * IDLE_S), under_way, replicas)
    assert changes == [0] * (len(changes) - 1) + [-1]


def test_between_the_two_nothing_moves() -> None:
    model = Model()
    assert set(model.looks(1000, 2, 2)) == {0}
    for _ in range(20):  # needed now and then
        assert set(model.looks(100, 0, 2) + model.looks(1, 2, 2)) == {0}


def test_after_a_failure_no_replica_comes_for_a_while_but_one_may_go() -> None:
    model = Model()
    model.trend.paused_until_s = PAUSE_S
    assert set(model.looks(int(2 * PAUSE_S) - 1, 8, 1)) == {0}
    assert 1 in model.looks(LOOKS, 8, 1)
    model.trend.paused_until_s = model.now_s + 10 * PAUSE_S
    assert -1 in model.looks(int(2 * IDLE_S), 0, 2)
