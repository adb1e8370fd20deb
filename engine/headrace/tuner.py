"""Self-tuning batches: from what recent batches cost, the size and the wait that hold a latency at the most throughput.

    batches --samples--> Tuner.learn --> cost curve, crowd, turnaround --> Plan --> the queue (ext/model_queue.pxi)

What is known of queues with batch service decides the rules:
1. Taking what waits ("natural" batches) is right unless told otherwise: a size below what the load brings only lets
   the queue grow. A smaller size pays only where the cost curve bends upwards (a working set that outgrows a cache).
2. Waiting for company pays only where it saves a call. With clients that wait for their answers, natural batches fall
   into two halves that take turns, each paying the fixed cost of a call; a wait as long as an answered client needs to
   ask again unites them. So the queue waits while fewer wait than were under way at once of late (the crowd), and as
   long as they keep coming within the usual time (the linger). A lone client is a crowd of one: it never waits.
3. No request waits past the point where target less the call's own time is used up.

Estimates are medians over windows of batches, so that a pause of the machine, of the collector or of a model's first
call moves nothing by itself. Nothing here reads a clock: a simulated load runs it as a real one does.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Sequence
from operator import add
from typing import NamedTuple, TypeAlias

from headrace import log as logs

_log = logs.get("tuner")

_KEPT = 31  # durations kept for each size; their median is the estimate
_ENOUGH = 3  # durations without which a size counts as unknown
_FORGET = 256  # plans after which a size that no batch had is forgotten, and so may be tried again
_MARGIN = 0.9  # of the target that is used: what lies between this estimate and the client's clock is not ours to see
_NEAR = 0.97  # throughputs within this of the best count as equal; the lower latency then decides
_PAUSE = 64  # plans without waits after waits that cost more than they saved
_STEP = 1.25  # most that one window moves the correction of predictions
_CORRECTIONS = (0.5, 4.0)


# One batch as its queue saw it; times in ns. A plain tuple, since there is one a batch:
#   requests that ran together; those that waited when it was formed, these included; those that waited when it ended;
#   time from its beginning to its last answer; time from the arrival of its oldest request to the last answer;
#   time that the worker waited although a request did;
#   time from the end of an earlier batch to the first arrival after it, 0 when none was seen since the last sample.
Sample: TypeAlias = tuple[int, int, int, int, int, int, int]


class Plan(NamedTuple):
    """What the queue does: runs a batch as soon as `crowd` requests wait, or the oldest has waited for `delay_ns`, or
    nothing has come or gone for `linger_ns`. With a crowd of 0 it never waits."""

    size: int
    crowd: int
    linger_ns: int
    delay_ns: int


class CostCurve:
    """Time of a batch by its size: learned medians, and straight lines between them. Never falls with the size."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[deque[int], deque[int]]] = {}  # sizes and durations of batches by power of two
        self._seen: dict[int, int] = {}  # plan in which a power was last added to
        self._points: list[tuple[int, int]] = []

    def learn(self, sizes: Sequence[int], durations: Sequence[int], plan: int) -> None:
        kept = self._kept
        for size, duration in zip(sizes, durations, strict=True):
            power = (size - 1).bit_length()  # 1, 2, 3-4, 5-8, ...
            if power not in kept:
                kept[power] = deque(maxlen=_KEPT), deque(maxlen=_KEPT)
            kept[power][0].append(size)
            kept[power][1].append(duration)
            self._seen[power] = plan
        for power in [power for power, seen in self._seen.items() if plan - seen > _FORGET]:
            del kept[power], self._seen[power]
        points: list[tuple[int, int]] = []
        for power in sorted(kept):
            known_sizes, known_durations = kept[power]
            if len(known_sizes) >= _ENOUGH:
                cost = _quantile(known_durations, 0.5)
                points.append((_quantile(known_sizes, 0.5), max(cost, points[-1][1]) if points else cost))
        self._points = points

    def at(self, size: int) -> float:
        """ns; 0.0 while nothing is known. Between two known sizes the line to the larger one or, where that is lower,
        the line that the smaller ones make goes on: so a bend that lies somewhere in between is looked for."""
        points = self._points
        if not points:
            return 0.0
        index = bisect_left(points, (size, 0))
        if index == 0:
            return points[0][1]
        if index == len(points):
            return self._beyond(index, size)
        (low, below), (high, above) = points[index - 1 : index + 1]
        if size == high:
            return above
        return min(self._beyond(index, size), below + (above - below) * (size - low) / (high - low))

    def _beyond(self, count: int, size: int) -> float:
        """By the first `count` points: the line of the last two goes on; with one, a flat line: company is taken to be
        free until it was seen to cost."""
        largest, cost = self._points[count - 1]
        if count == 1:
            return cost
        before, below = self._points[count - 2]
        return cost + (cost - below) * (size - largest) / (largest - before)


class Tuner:
    """Makes plans for one model.

    target_ns: what 99 of 100 requests may take, from arrival to answer. max_size: the largest batch that is allowed.
    """

    def __init__(self, name: str, target_ns: int, max_size: int) -> None:
        self.name = name
        self.target_ns = target_ns
        self.max_size = max_size
        self.curve = CostCurve()
        self.plan = Plan(max_size, 0, 0, 0)
        self._plans = 0
        self._paused_until = 0
        self._correction = 1.0
        sizes = [1 << power for power in range(max_size.bit_length()) if 1 << power < max_size]
        self._sizes = [*sizes, max_size]

    def learn(self, samples: Sequence[Sample]) -> Plan:
        """Takes in the batches since the last call, and says what to do from here on. Some 60 us for 128 batches."""
        self._plans += 1
        sizes, depths, behind, busy, oldest, waited, turnarounds = zip(*samples, strict=True)
        self.curve.learn(sizes, busy, self._plans)
        depth = _quantile(depths, 0.95)
        slowest = _quantile(oldest, 0.95)
        self._correct(slowest, depth)
        size = self._best_size(depth)
        crowd = min(size, _quantile(list(map(add, sizes, behind)), 0.5))
        asked_again = [turnaround for turnaround in turnarounds if turnaround]
        linger = 2 * _quantile(asked_again, 0.5) if asked_again else 0
        plan = Plan(size, *self._wait(crowd, _quantile(behind, 0.5), linger, _quantile(waited, 0.5)))
        if plan[:2] != self.plan[:2]:
            _log.debug("tuner.plan", model=self.name, **plan._asdict(), slowest_ns=slowest)
        self.plan = plan
        return plan

    def _predicted(self, size: int, depth: int) -> float:
        """Latency of the last of `depth` requests that wait behind a running batch."""
        return self._correction * (-(-depth // size) + 1) * self.curve.at(min(size, depth))

    def _correct(self, slowest: int, depth: int) -> None:
        """Brings predictions nearer to what was seen; one window, whatever happened in it, moves them by one step."""
        ratio = slowest / (self._predicted(self.plan.size, depth) or slowest or 1)
        least, most = _CORRECTIONS
        self._correction = min(most, max(least, self._correction * min(_STEP, max(1 / _STEP, ratio))))

    def _best_size(self, depth: int) -> int:
        """Of the sizes that should hold the target the one with the most throughput, else the one that is fastest."""
        sizes = [size for size in self._sizes if size < depth]
        sizes.append(self._sizes[len(sizes)] if len(sizes) < len(self._sizes) else self.max_size)
        holding = [size for size in sizes if self._predicted(size, depth) <= _MARGIN * self.target_ns]
        if not holding:
            best = min(sizes, key=lambda size: (self._predicted(size, depth), -size))
        else:
            rates = {size: min(size, depth) / (self.curve.at(min(size, depth)) or 1) for size in holding}
            least = _NEAR * max(rates.values())
            near = [size for size in holding if rates[size] >= least]
            best = min(near, key=lambda size: (self._predicted(size, depth), -size))
        # A size that all that wait fits into is no limit, and a limit would only be in the way of the next burst.
        return self.max_size if best >= depth else best

    def _wait(self, crowd: int, behind: int, linger: int, waited: int) -> tuple[int, int, int]:
        """(crowd, linger, delay) from what is usual; zeros when waiting costs more than it saves."""
        never = 0, 0, 0
        if crowd < 2 or not linger or self._plans < self._paused_until:
            return never
        at_once = min(max(1, behind), crowd - 1)  # would run without a wait, and the rest of the crowd after them
        saved = self.curve.at(at_once) + self.curve.at(crowd - at_once) - self.curve.at(crowd)
        delay = round(_MARGIN * self.target_ns - self.curve.at(crowd))
        # While a crowd gathers the worker idles that could work beside its clients: a wait must save clearly.
        if self.plan.crowd and 2 * waited + linger > saved:
            self._paused_until = self._plans + _PAUSE
            return never
        return (crowd, linger, delay) if linger <= saved and delay > 0 else never


def _quantile(values: Collection[int], share: float) -> int:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
