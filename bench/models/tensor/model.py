"""Takes an image of 3x224x224 numbers, answers their mean: the cost of moving a large body to a model."""

from typing import Any

from headrace import Model


class Tensor(Model):
    shape = (3, 224, 224)

    def predict(self, x: Any) -> Any:
        return x.mean(axis=(1, 2, 3))
