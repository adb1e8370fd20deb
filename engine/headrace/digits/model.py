"""The bundled example: reads handwritten digits.

In:  rows of 64 numbers, an image of 8x8 pixels row by row, each from 0 (paper) to 16 (ink).
Out: the digit of each row, 0 to 9.

README.md beside this file says where the images come from; train.py made weights.npz.
"""

from pathlib import Path
from typing import Any

import numpy as np

from headrace import InferenceError, Model

INK = 16.0


class Digits(Model):
    shape = (64,)
    max_batch_size = 64

    def load(self, directory: Path) -> None:
        with np.load(directory / "weights.npz") as weights:
            self.w1, self.b1, self.w2, self.b2 = (weights[name] for name in ("w1", "b1", "w2", "b2"))

    def predict(self, x: Any) -> Any:
        if not ((x >= 0) & (x <= INK)).all():  # a NaN is neither
            raise InferenceError(400, "pixels must be numbers from 0 (paper) to 16 (ink)")
        hidden = np.maximum(x / INK @ self.w1 + self.b1, 0)
        return (hidden @ self.w2 + self.b2).argmax(axis=1)
