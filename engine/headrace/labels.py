"""Which models are told of by name in the metrics; all others together are `other`. Plain bookkeeping.

A thousand models with a hundred series each would be a page that nobody can keep, so at most HEADRACE_METRICS_MODELS
models have series of their own. Those are the first ones, until others turn out to be busier.

Invariant: a count never moves from one series to another, since a counter that falls looks like a restart and one that
jumps like traffic. So a model that gets its name begins at zero, and what it had stays with `other`.
"""

from collections.abc import Mapping

OTHER = "other"
WORTH = 2.0  # times as much traffic as the least busy named model has: then a model takes its place


class Labels:
    """most: how many models may be named. Models are known by their index."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._named: dict[int, float] = {}  # and their traffic: requests, half as much with each look

    def is_named(self, index: int, name: str) -> bool:
        """Whether the model is; it is from now on where there is room. One called like the rest never is."""
        if index not in self._named and len(self._named) < self._most and name != OTHER:
            self._named[index] = 0.0
        return index in self._named

    def forget(self, index: int) -> None:
        self._named.pop(index, None)

    def rank(self, asked: Mapping[int, int], names: Mapping[int, str]) -> list[int]:
        """Take note of how many requests models had since the last look. Returns those that are named, or not named any
        more, from now on; names: of all models that there are."""
        for index in list(self._named):
            if index in names:
                self._named[index] = self._named[index] / 2 + asked.get(index, 0)
            else:
                self.forget(index)
        changed = []
        waiting = sorted((index for index in asked if index not in self._named), key=lambda index: -asked[index])
        for index in waiting:
            if names.get(index, OTHER) == OTHER:
                continue
            if len(self._named) >= self._most:
                least = min(self._named, key=self._named.__getitem__, default=0)
                if not self._named or asked[index] <= WORTH * self._named[least]:
                    break
                self.forget(least)
                changed.append(least)
            self._named[index] = float(asked[index])
            changed.append(index)
        return changed
