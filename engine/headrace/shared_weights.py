"""The stores of weights that the server holds for its models (weight_store.py), and their charge in the budget.

A model's store lives from the load of its first replica until its last one is gone, so that replicas which come later,
or follow a dead worker's, find what they need. It is charged once, whatever the number of replicas.
"""

import os

from headrace import artifact
from headrace._memory import committed_bytes
from headrace.budget import Budget
from headrace.registry import Model
from headrace.weight_store import SHARED_LEAST_BYTES, create


class SharedWeights:
    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._fds: dict[int, int] = {}  # by model
        self._mapped: dict[int, int] = {}  # bytes of files that a replica has mapped, by model

    def open(self, model: Model) -> list[int]:
        """Descriptors to pass along with a load: the model's store, if it is large enough to have one."""
        if model.index not in self._fds:
            if artifact.size_bytes(model.directory or model.path) < SHARED_LEAST_BYTES:
                return []
            self._fds[model.index] = create()
        return [self._fds[model.index]]

    def settle(self, model: Model, mapped_bytes: int) -> int:
        """A replica is loaded, and has mapped so much of the model's files. Returns the bytes that all have in common.

        Files count though the page cache could drop them: it would have to read them again for each request.
        """
        if model.index not in self._fds:
            return 0
        self._mapped[model.index] = max(mapped_bytes, self._mapped.get(model.index, 0))
        self._measure(model.index)
        return self._budget.shared_of(model.index)

    def has(self, model: Model) -> bool:
        return self._budget.shared_of(model.index) > 0

    def drop(self, model: Model) -> None:
        """The last replica is gone."""
        fd = self._fds.pop(model.index, -1)
        if fd >= 0:
            os.close(fd)
            self._mapped.pop(model.index, None)
            self._budget.share(model.index, 0)

    def measure(self) -> None:
        for index in self._fds:
            self._measure(index)

    def _measure(self, index: int) -> None:
        self._budget.share(index, committed_bytes(self._fds[index]) + self._mapped.get(index, 0))
