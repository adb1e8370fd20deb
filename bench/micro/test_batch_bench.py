"""Forming a batch of 32 images beside numpy.stack: `pytest bench/micro/test_batch_bench.py --benchmark-enable`.

The images lie in slots at one stride of one mapping, as requests that arrive together do; each body is an npy file.
"""

import io
import mmap
from typing import Any

import numpy as np
import pytest

from headrace import _batch
from headrace._codec import view_npy

COUNT, SHAPE = 32, (1, 3, 224, 224)
STRIDE = 655_424  # of the arena's size class for such a body (ext/arena.h)


@pytest.mark.parametrize("how", ["headrace", "numpy.concatenate", "numpy.stack"])
def test_batch_of_images(benchmark: Any, how: str) -> None:
    benchmark.group = f"batch of {COUNT} npy images {SHAPE} float32"
    random = np.random.default_rng(1)
    arena = mmap.mmap(-1, COUNT * STRIDE)
    bodies = []
    for slot in range(COUNT):
        file = io.BytesIO()
        np.save(file, random.random(SHAPE, dtype=np.float32))
        start = slot * STRIDE
        arena[start : start + file.tell()] = file.getvalue()
        bodies.append(memoryview(arena)[start : start + file.tell()].toreadonly())
    images = [view_npy(body) for body in bodies]

    def ours() -> Any:
        ((batch, _),) = _batch.runs(images)
        return batch

    form = {
        "headrace": ours,
        "numpy.concatenate": lambda: np.concatenate(images),
        "numpy.stack": lambda: np.stack([image[0] for image in images]),
    }[how]
    batch = form()
    assert np.array_equal(batch, np.concatenate(images))
    assert np.shares_memory(batch, images[0]) == (how == "headrace"), "not a byte is gathered"
    benchmark(form)
