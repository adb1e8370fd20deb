"""`mlp` of bench/work.py: reading numbers, next to a model that takes a few microseconds."""

from pathlib import Path
from typing import Any

from bench import work
from headrace import Model


class Mlp(Model):
    shape = (work.SIZES[0],)

    def load(self, directory: Path) -> None:
        self.mlp = work.Mlp()

    def predict(self, x: Any) -> Any:
        return self.mlp(x)
