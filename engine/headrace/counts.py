"""What the supervisor counts by itself: loads, evictions, restarts. Plain bookkeeping: no I/O, no clock."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

# A load takes from milliseconds (a small native model) to many minutes (HEADRACE_TIMEOUT does not bound it).
LOAD_BOUNDS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
# Since its last request. One that goes a second after it was used is missed a second later: the cache is too small.
AGE_BOUNDS_S = (0.1, 1, 10, 60, 300, 900, 3600, 21600, 86400)


class Histogram:
    """Counts of values: each in the first bucket whose bound is not below it. The last bucket has no bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.buckets = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.buckets[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Counts:
    """loads: by outcome (`loaded`, `refused` for lack of memory, `failed`); replica_changes: by load."""

    def __init__(self) -> None:
        self.loads: Counter[str] = Counter(loaded=0, refused=0, failed=0)
        self.replica_changes: Counter[str] = Counter(added=0, removed=0)
        self.load_s = Histogram(LOAD_BOUNDS_S)
        self.eviction_age_s = Histogram(AGE_BOUNDS_S)
