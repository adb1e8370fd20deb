"""`mlp` of bench/work.py: reading numbers, next to a model that takes a few microseconds."""

from typing import Any

from bench import work
from headrace import Model


class Mlp(Model):
    shape = (work.SIZES[0],)

    def predict(self, x: Any) -> Any:
        return work.mlp(x)
