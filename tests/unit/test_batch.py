"""How what waits becomes batches (ext/model_queue.pxi), and how neighbours become one array (ext/batch.pyx)."""

import gc

import numpy as np
import pytest
from local_port import LocalPort, servable

from headrace import _batch

LONG_NS = 3600 * 10**9
HOT, COLD = 0, 1


@pytest.fixture
def worker():
    local = LocalPort()
    yield local
    local.close()


def served(worker, count):
    return [worker.next() for _ in range(count)]


# Which model, and how many


def test_what_waits_runs_together_up_to_the_limit(worker):
    worker.port.serve(0, servable("m", size=3))
    for _ in range(7):
        worker.submit(0)
    assert served(worker, 3) == [("m", 3), ("m", 3), ("m", 1)]
    assert [status for _, status, _ in worker.answers()] == [200] * 7


def test_models_take_turns_in_the_order_in_which_their_requests_came(worker):
    for model in range(3):
        worker.port.serve(model, servable(f"m{model}"))
    for model, age in ((0, 10), (1, 30), (2, 20)):
        worker.submit(model, age_ns=age * 10**9)
    assert [name for name, _ in served(worker, 3)] == ["m1", "m2", "m0"]


@pytest.mark.parametrize("backlog", [40, 400])
def test_cold_model_waits_for_one_batch_of_a_hot_one_whatever_its_backlog(worker, backlog):
    worker.port.serve(HOT, servable("hot", size=4))
    worker.port.serve(COLD, servable("cold"))
    for _ in range(backlog):
        worker.submit(HOT, age_ns=LONG_NS)
    assert worker.next() == ("hot", 4)
    for _ in range(5):  # as often as it comes
        worker.submit(COLD)
        worker.submit(HOT, age_ns=LONG_NS)
        assert sorted(served(worker, 2)) == [("cold", 1), ("hot", 4)]


def test_no_model_waits_for_more_than_a_batch_of_each_other(worker):
    count = 5
    for model in range(count):
        worker.port.serve(model, servable(f"m{model}", size=2))
        for _ in range(20):
            worker.submit(model, age_ns=LONG_NS - model)
    names = [name for name, _ in served(worker, 50)]
    for start in range(0, 50, count):
        assert sorted(names[start : start + count]) == [f"m{model}" for model in range(count)]


# Bytes


def test_bodies_of_a_batch_stay_below_the_limit_of_bytes(worker):
    worker.port.serve(0, servable("m", most_bytes=1000))
    for length in (400, 600, 1, 999, 2, 1500, 3):
        worker.submit(0, bytes(length))
    assert [count for _, count in served(worker, 5)] == [2, 2, 1, 1, 1]


def test_enough_bytes_end_a_wait_for_company(worker):
    worker.port.serve(0, servable("m", most_bytes=1000, delay_ns=LONG_NS))
    worker.submit(0, bytes(600))
    worker.submit(0, bytes(600))
    assert worker.next() == ("m", 1)


# Waiting


def test_wait_for_company_ends_with_it_or_with_the_delay(worker):
    worker.port.serve(0, servable("waiting", size=3, delay_ns=LONG_NS))
    worker.port.serve(1, servable("other"))
    worker.submit(0, age_ns=LONG_NS // 2)
    worker.submit(0)
    worker.submit(1)
    assert worker.next() == ("other", 1), "an older request whose model waits for company must not hold others"
    worker.submit(0)
    assert worker.next() == ("waiting", 3)
    worker.submit(0, age_ns=LONG_NS + 1)
    assert worker.next() == ("waiting", 1)


def test_nothing_waits_for_company_when_the_worker_empties_its_queues(worker):
    worker.port.serve(0, servable("m", delay_ns=LONG_NS))
    worker.submit(0)
    _, requests = worker.port.next_batch(heed_control=False)
    worker.port.settle(requests, RuntimeError())
    assert worker.port.next_batch(heed_control=False) is None


def test_request_past_its_deadline_is_not_run(worker):
    worker.port.serve(0, servable("m"))
    late = worker.submit(0, deadline_ns=1)
    worker.submit(0)
    assert worker.next() == ("m", 1)
    assert (late, 503, b"TimeoutError") in worker.answers()


# Tuned queues


class Planner:
    """Answers each lot of samples with the same plan."""

    def __init__(self, *plan):
        self.plan, self.lots = plan, []

    def learn(self, samples):
        self.lots.append(list(samples))
        return self.plan


def test_tuner_sees_every_batch_and_its_plan_holds(worker):
    planner = Planner(2, 0, 0, 0)
    worker.port.serve(0, servable("m", size=3, tuner=planner))
    batches = []
    while not planner.lots:
        for _ in range(3):
            worker.submit(0)
        batches.append(worker.next())
    (lot,) = planner.lots
    # The sample of a batch is made when the next one is asked for, which is then the first by the new plan.
    assert batches == [("m", 3)] * len(lot) + [("m", 2)]
    for size, depth, behind, busy, oldest, waited, turnaround in lot:
        assert (size, depth, behind) == (3, 3, 3)
        assert 0 < busy <= oldest
        assert 0 <= waited <= oldest
        assert turnaround >= 0
    for _ in range(4):
        worker.submit(0)
    assert served(worker, 3) == [("m", 2), ("m", 2), ("m", 1)]


def test_linger_ends_a_wait_when_nothing_comes(worker):
    planner = Planner(8, 8, 1, LONG_NS)  # a crowd of 8 for an hour, but at most 1 ns without news
    worker.port.serve(0, servable("m", tuner=planner))
    for _ in range(128):
        worker.submit(0)
        worker.next()
    worker.submit(0, age_ns=10**6)
    worker.submit(0, age_ns=10**6)
    assert served(worker, 1) == [("m", 2)]


# Neighbours


def places(slots, shape=(1, 4), stride=64, dtype="f4", order=None):
    """Arrays at these slots of one piece of memory, each with a value of its own."""
    memory = np.zeros((max(slots) + 1) * stride, "u1")
    found = []
    for slot in order or slots:
        array = memory[slot * stride :][: int(np.prod(shape)) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)
        array[...] = slot
        found.append(array)
    return memory, found


@pytest.mark.parametrize(
    ("slots", "sizes"),
    [
        ([0], [1]),
        ([0, 1, 2, 3], [4]),
        ([3, 1, 0, 2], [4]),
        ([0, 2, 4, 6], [4]),
        ([0, 1, 2, 10, 11, 12], [3, 3]),
        ([0, 5, 6], [2, 1]),
    ],
)
def test_runs_hold_every_member_once_without_a_copy(slots, sizes):
    memory, arrays = places(slots)
    runs = _batch.runs(arrays)
    assert [len(indexes) for _, indexes in runs] == sizes
    assert sorted(index for _, indexes in runs for index in indexes) == list(range(len(slots)))
    for run, indexes in runs:
        assert run.shape == (len(indexes), 4)
        assert [row[0] for row in run] == [slots[index] for index in indexes]
        assert np.shares_memory(run, memory)


def test_run_keeps_its_members_alive_and_cannot_be_written():
    memory, arrays = places([0, 1])
    ((run, _),) = _batch.runs(arrays)
    del memory, arrays
    gc.collect()
    assert run[:, 0].tolist() == [0, 1]
    assert not run.flags.writeable


def test_members_that_overlap_are_not_one_array():
    memory = np.arange(64, dtype="f4")
    arrays = [memory[start : start + 8].reshape(1, 8) for start in (0, 4, 8)]
    for run, indexes in _batch.runs(arrays):
        assert [row[0] for row in run] == [(0, 4, 8)[index] for index in indexes]
