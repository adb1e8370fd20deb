"""`call` of bench/work.py: a model whose calls cost more than its rows, so that batches pay."""

from typing import Any

from bench import work
from headrace import Model


class Call(Model):
    shape = (4,)
    max_batch_size = 64

    def predict(self, x: Any) -> Any:
        return work.call(x)
