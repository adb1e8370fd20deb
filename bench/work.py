"""The work that every server is asked to do: imported by Headrace's models, by the rivals' and by the answers' checks.

numpy and orjson only, since it runs in the virtual environment of each rival. Servers that decode bodies themselves
call what ARRAYS makes; those that hand over the body as it came call what answer() makes, which decodes and encodes the
way a user would: orjson for JSON, numpy.load for npy.

A model's name is a kind of work, or a kind and a number ("mlp-3"): one more model of that kind, weights of its own.
"""

import io
import itertools
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson

SEED = 256
SIZES = (256, 256, 10)
#: `call` costs this much a call and a row: a model on an accelerator in small.
CALL_NS, ROW_NS = 1_000_000, 20_000
#: `pages` looks at one byte of each, so that a body must really be there.
PAGE_BYTES = 4096
DEADLY = b'{"text":"die"}'

Buffer = bytes | bytearray | memoryview


class Mlp:
    """256 x 256 x 10: the cost of reading numbers, next to a model that takes a few microseconds.

    Its weights are random, the same in every process, so that a client can work out the right answer for itself.
    """

    def __init__(self) -> None:
        random = np.random.default_rng(SEED)
        self.w1, self.w2 = (
            (random.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)
            for rows, columns in itertools.pairwise(SIZES)
        )

    def __call__(self, x: Any) -> Any:
        """float32 (n, 256) -> float32 (n, 10)."""
        return np.maximum(x @ self.w1, 0) @ self.w2


def mean(x: Any) -> Any:
    """float32 (n, 3, 224, 224) -> float32 (n,): the cost of moving a large body to a model."""
    return x.mean(axis=(1, 2, 3))


def call(x: Any) -> Any:
    """float32 (n, width) -> (n, 1), their sums, after CALL_NS and n * ROW_NS of spinning."""
    end = time.perf_counter_ns() + CALL_NS + ROW_NS * len(x)
    while time.perf_counter_ns() < end:
        pass
    return x.sum(axis=1, keepdims=True)


def pages(body: Buffer) -> dict[str, int]:
    """A body's length, and the sum of the first byte of each page of it."""
    return {"length": len(body), "sum": int(np.frombuffer(body, np.uint8)[::PAGE_BYTES].sum(dtype=np.uint64))}


def mortal(body: Buffer) -> Buffer:
    """Itself, like echo, unless it is DEADLY: that kills the process which reads it."""
    if body == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    return body


def rows(body: Buffer) -> Any:
    """The float32 array in `{"instances": [[...], ...]}`."""
    return np.asarray(orjson.loads(body)["instances"], np.float32)


def predictions(x: Any) -> bytes:
    return orjson.dumps({"predictions": x}, option=orjson.OPT_SERIALIZE_NUMPY)


def image(body: Buffer) -> Any:
    """The array in a body of npy form."""
    return np.load(io.BytesIO(body), allow_pickle=False)


#: Makes work on arrays, which a server may batch. What they take is JSON, but `tensor` npy.
ARRAYS: dict[str, Callable[[], Callable[[Any], Any]]] = {"mlp": Mlp, "tensor": lambda: mean, "call": lambda: call}


def answer(model: str) -> Callable[[Buffer], Buffer]:
    """The work of one model, from body to body. KeyError for a kind that there is not."""
    kind = kind_of(model)
    if kind in ARRAYS:
        run, read = ARRAYS[kind](), image if kind == "tensor" else rows
        return lambda body: predictions(run(read(body)))
    others: dict[str, Callable[[Buffer], Buffer]] = {
        "echo": lambda body: body,
        "pages": lambda body: orjson.dumps(pages(body)),
        "mortal": mortal,
    }
    return others[kind]


def kind_of(model: str) -> str:
    return model.partition("-")[0]
