"""The tuner against simulated loads: time is a number here, and every run is the same."""

import heapq
import random

import pytest

from headrace.tuner import CostCurve, Tuner

US, MS = 1_000, 1_000_000


class Queue:
    """The queue of ext/model_queue.pxi with its own clock: runs batches by the plan, shows the tuner samples."""

    def __init__(self, cost, tuner=None, size=64, noise=None):
        self.cost, self.tuner, self.noise = cost, tuner, noise
        self.plan = (size, 0, 0, 0) if tuner is None else tuner.plan
        self.now = self.ended = self.last = self.turnaround = 0
        self.asking = [0, 0]  # ends of the last two batches, 0 once a request came after them
        self.waiting, self.samples, self.latencies, self.sizes = [], [], [], []

    def run(self, arrivals, requests, reply=None):
        """Answers so many. arrivals: heap of times; reply(now) -> time at which an answered client asks again."""
        wanted = len(self.latencies) + requests
        while len(self.latencies) < wanted:
            self.take(arrivals)
            if not self.waiting:
                if not arrivals:
                    return
                self.now = max(self.now, arrivals[0])
                self.take(arrivals)
            size, crowd, linger, delay = self.plan
            while len(self.waiting) < crowd:
                due = self.waiting[0] + delay
                if linger:
                    due = min(due, max(self.last, self.ended) + linger)
                if self.now >= due:
                    break
                self.now = min(due, arrivals[0]) if arrivals else due
                self.take(arrivals)
            depth, members, self.waiting = len(self.waiting), self.waiting[:size], self.waiting[size:]
            waited = self.now - max(members[0], self.ended)
            busy = round(self.cost(len(members)) * (self.noise() if self.noise else 1))
            turnaround, self.turnaround = self.turnaround, 0
            self.now += busy
            self.ended = self.now
            self.asking = [self.asking[1], self.now]
            self.sizes.append(len(members))
            for arrival in members:
                self.latencies.append(self.now - arrival)
                if reply is not None:
                    heapq.heappush(arrivals, reply(self.now))
            self.take(arrivals)
            sample = (len(members), depth, len(self.waiting), busy, self.now - members[0], max(0, waited), turnaround)
            self.samples.append(sample)
            if self.tuner is not None and len(self.samples) == 64:
                self.plan = self.tuner.learn(self.samples)
                self.samples = []

    def take(self, arrivals):
        while arrivals and arrivals[0] <= self.now:
            arrival = heapq.heappop(arrivals)
            for index in (0, 1):
                if 0 < self.asking[index] < arrival:
                    self.turnaround = arrival - self.asking[index]
                    self.asking[index] = 0
            self.last = arrival
            self.waiting.append(arrival)

    def rest(self):
        """Requests a second and p99 of what came after now, when it is called again with a mark."""
        return len(self.latencies), self.now

    def since(self, mark):
        count, then = mark
        latencies = sorted(self.latencies[count:])
        return len(latencies) * 1e9 / (self.now - then), latencies[int(0.99 * len(latencies))]


def closed(queue, clients, turnaround, batches=3000, seed=1):
    """(requests/s, p99 ns) with clients that ask again `turnaround` ns (about) after their answers."""
    chance = random.Random(seed)
    arrivals = sorted(chance.randrange(MS) for _ in range(clients))

    def reply(now):
        return now + round(turnaround * chance.uniform(0.5, 1.5))

    queue.run(arrivals, batches * clients, reply)
    mark = queue.rest()
    queue.run(arrivals, batches // 4 * clients, reply)
    return queue.since(mark)


def open_loop(queue, rate, warm_up=20_000, requests=40_000, seed=1):
    chance = random.Random(seed)
    now, arrivals = 0.0, []
    for _ in range(warm_up + requests):
        now += chance.expovariate(rate) * 1e9
        arrivals.append(round(now))
    queue.run(arrivals, warm_up)
    mark = queue.rest()
    queue.run(arrivals, requests)
    return queue.since(mark)


def fixed_and_each(fixed, each):
    return lambda size: fixed + each * size


# Waiting


def test_lone_client_never_waits():
    cost = fixed_and_each(MS, 50 * US)
    tuner = Tuner("m", 50 * MS, 64)
    queue = Queue(cost, tuner)
    closed(queue, 1, 100 * US)
    assert set(queue.latencies) == {cost(1)}
    assert tuner.plan.crowd == 0


@pytest.mark.parametrize("clients", [2, 8, 64])
def test_clients_that_take_turns_in_halves_are_united(clients):
    cost = fixed_and_each(2 * MS, 10 * US)
    natural, natural_p99 = closed(Queue(cost), clients, 100 * US)
    tuned, tuned_p99 = closed(Queue(cost, Tuner("m", 20 * MS, 64)), clients, 100 * US)
    assert tuned > 1.5 * natural
    assert tuned_p99 < natural_p99


@pytest.mark.parametrize("rate", [20, 100, 300])
def test_sparse_requests_do_not_wait(rate):
    """Open loop at up to a third of what single calls allow: nothing is to be gained, so nothing is put off."""
    cost = fixed_and_each(MS, 50 * US)
    _, natural = open_loop(Queue(cost), rate, 5000, 10_000)
    _, tuned = open_loop(Queue(cost, Tuner("m", 20 * MS, 64)), rate, 5000, 10_000)
    assert tuned <= natural


@pytest.mark.parametrize("rate", [500, 2000, 8000, 14_000])
def test_open_loop_stays_below_the_target(rate):
    cost = fixed_and_each(MS, 50 * US)
    throughput, p99 = open_loop(Queue(cost, Tuner("m", 20 * MS, 64)), rate)
    assert p99 <= 20 * MS
    assert throughput == pytest.approx(rate, rel=0.05)


def test_no_gain_no_wait():
    """Calls without a fixed cost save nothing by company."""
    tuner = Tuner("m", 50 * MS, 64)
    closed(Queue(fixed_and_each(0, 100 * US), tuner), 16, 100 * US)
    assert tuner.plan.crowd == 0


def test_target_too_short_for_a_wait():
    tuner = Tuner("m", 2 * MS, 64)
    closed(Queue(fixed_and_each(2 * MS, 10 * US), tuner), 64, 100 * US)
    assert tuner.plan.crowd == 0


def test_crowd_that_leaves_is_not_waited_for():
    cost = fixed_and_each(2 * MS, 10 * US)
    tuner = Tuner("m", 20 * MS, 64)
    queue = Queue(cost, tuner)
    closed(queue, 32, 100 * US)
    assert tuner.plan.crowd > 16
    queue.latencies.clear()
    queue.run([queue.now + 1], 1000, lambda now: now + 100 * US)
    assert tuner.plan.crowd == 0
    assert queue.latencies[-1] == cost(1)
    assert max(queue.latencies) <= 20 * MS


# Sizes


def cliff(size):
    """A working set that outgrows its cache at 16."""
    return MS + 50 * US * size + (MS * (size - 16) // 2 if size > 16 else 0)


def test_size_stays_below_a_cliff():
    natural, natural_p99 = closed(Queue(cliff), 64, 100 * US)
    tuner = Tuner("m", 30 * MS, 64)
    tuned, tuned_p99 = closed(Queue(cliff, tuner), 64, 100 * US)
    assert tuner.plan.size == 16
    assert tuned > 1.5 * natural
    assert tuned_p99 < natural_p99


def test_size_is_left_alone_where_larger_is_better():
    tuner = Tuner("m", 100 * MS, 64)
    queue = Queue(fixed_and_each(MS, 50 * US), tuner)
    closed(queue, 64, 100 * US)
    assert tuner.plan.size == 64


def test_size_never_passes_the_maximum():
    tuner = Tuner("m", 100 * MS, 24)
    queue = Queue(fixed_and_each(MS, 50 * US), tuner)
    closed(queue, 200, 100 * US)
    assert max(queue.sizes) == 24


def test_new_cost_is_learned():
    tuner = Tuner("m", 30 * MS, 64)
    queue = Queue(fixed_and_each(MS, 50 * US), tuner)
    closed(queue, 64, 100 * US)
    assert tuner.plan.size == 64
    queue.cost = cliff
    arrivals = [queue.now + index for index in range(64 - len(queue.waiting))]
    queue.run(arrivals, 100_000, lambda now: now + 100 * US)
    assert tuner.plan.size == 16


# Outliers


def test_rare_pauses_change_nothing():
    """One batch in a hundred takes fifty times as long."""
    chance = random.Random(7)
    tuner = Tuner("m", 20 * MS, 64)
    queue = Queue(fixed_and_each(2 * MS, 10 * US), tuner, noise=lambda: 50 if chance.random() < 0.01 else 1)
    closed(queue, 64, 100 * US)
    assert tuner.curve.at(64) == pytest.approx(2.64 * MS, rel=0.1)
    assert tuner.plan.size == 64
    assert tuner.plan.crowd > 32


def test_slow_first_call_is_no_estimate():
    curve = CostCurve()
    curve.learn([1], [900 * MS], 1)
    assert curve.at(1) == 0, "one duration is none"
    curve.learn([1, 1], [MS, MS], 2)
    assert curve.at(1) == MS


def test_curve_between_and_beyond_what_is_known():
    curve = CostCurve()
    curve.learn([1] * 3 + [8] * 3, [100] * 3 + [450] * 3, 1)
    assert [curve.at(size) for size in (1, 8, 16)] == [100, 450, 850]
    assert curve.at(2) == 100, "a line from below is tried"
    curve.learn([16] * 3, [400] * 3, 2)
    assert curve.at(16) == 450, "a larger batch never costs less"
    alone = CostCurve()
    alone.learn([4] * 3, [400] * 3, 1)
    assert [alone.at(size) for size in (1, 4, 8)] == [400, 400, 400]
