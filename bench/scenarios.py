"""What is asked of every server, byte for byte the same, and how to tell a right answer."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.models.mlp.model import SIZES, Mlp

SEED = 1
#: 64 bytes; what the yardsticks answer to everything, so that in `echo` all servers send the same body.
ECHO = json.dumps({"text": "what goes in at the top comes out at the very bottom"}).encode()
IMAGE_SHAPE = (1, 3, 224, 224)


@dataclass(frozen=True)
class Scenario:
    """check: raises ValueError for an answer that is not right."""

    name: str
    content_type: str
    body: bytes
    check: Callable[[bytes], None]


def all_scenarios() -> dict[str, Scenario]:
    """By name: echo (64 bytes back), mlp (2.6 KB of JSON, ten numbers back), tensor (602,240 bytes of npy, a mean)."""
    random = np.random.default_rng(SEED)
    row = random.random(SIZES[0]).round(6)
    image = random.random(IMAGE_SHAPE, dtype=np.float32)
    npy = io.BytesIO()
    np.save(npy, image)
    model = Mlp()
    model.load(Path())
    scenarios = (
        Scenario("echo", "application/json", ECHO, check_constant),
        Scenario(
            "mlp",
            "application/json",
            json.dumps({"instances": [row.tolist()]}).encode(),
            lambda body: _check_numbers(body, model.predict(row[None].astype(np.float32))),
        ),
        Scenario(
            "tensor",
            "application/x-npy",
            npy.getvalue(),
            lambda body: _check_numbers(body, image.mean(axis=(1, 2, 3))),
        ),
    )
    return {scenario.name: scenario for scenario in scenarios}


def check_constant(body: bytes) -> None:
    """The echo's answer, and a yardstick's to anything."""
    if body != ECHO:
        raise ValueError(f"the answer is {body[:200]!r}; it should be {ECHO!r}")


def _check_numbers(body: bytes, wanted: Any) -> None:
    found = np.asarray(json.loads(body)["predictions"])
    if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=1e-4, atol=1e-5):
        raise ValueError(f"the answer is {body[:200]!r}; predictions should be {wanted.tolist()}")
