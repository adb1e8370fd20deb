"""What is asked of every server, byte for byte the same, and how to tell a right answer."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench import work

SEED = 1
#: 64 bytes; what the yardsticks answer to everything, so that in `echo` all servers send the same body.
ECHO = json.dumps({"text": "what goes in at the top comes out at the very bottom"}).encode()
IMAGE_SHAPE = (1, 3, 224, 224)
#: Bodies of any bytes, by the scenario's name.
SIZES = {"1kb": 1_000, "64kb": 64_000, "1mb": 1_000_000, "large": 20 << 20}
#: `many`: so many models, the k-th asked 1/k as often as the first (Zipf).
MANY = 20
#: `mixed`: bytes of a body, and of how many in a hundred requests.
MIXED = {200: 60, 4_000: 25, 60_000: 12, 1_000_000: 3}


@dataclass(frozen=True)
class Scenario:
    """model: of bench.work, which does the work. check: raises ValueError for an answer that is not right."""

    name: str
    model: str
    content_type: str
    body: bytes
    check: Callable[[bytes], None]


@dataclass(frozen=True)
class Mix:
    """Several kinds of request, drawn in proportion to their weights."""

    name: str
    parts: tuple[tuple[Scenario, float], ...]


def mixes() -> dict[str, Mix]:
    """By name: many (copies of mlp, by popularity), mixed (bodies of MIXED's sizes for pages)."""
    mlp = all_scenarios()["mlp"]
    many = tuple((replace(mlp, model=f"mlp-{index}"), 1 / (index + 1)) for index in range(MANY))
    mixed = tuple((_pages("mixed", size), float(weight)) for size, weight in MIXED.items())
    return {mix.name: mix for mix in (Mix("many", many), Mix("mixed", mixed))}


def all_scenarios() -> dict[str, Scenario]:
    """By name: echo (64 bytes back), mlp (2.6 KB of JSON, ten numbers back), tensor (602,240 bytes of npy, a mean),
    batch (a row for a model whose calls are dear), bodies of SIZES (their length and a sum), mortal (echo again, of a
    model that can be killed)."""
    random = np.random.default_rng(SEED)
    row = random.random(work.SIZES[0]).round(6)
    image = random.random(IMAGE_SHAPE, dtype=np.float32)
    npy = io.BytesIO()
    np.save(npy, image)
    json_type = "application/json"
    scenarios = (
        Scenario("echo", "echo", json_type, ECHO, _check_same),
        Scenario(
            "mlp", "mlp", json_type, _instances([row.tolist()]), _numbers(work.Mlp()(row[None].astype(np.float32)))
        ),
        Scenario("tensor", "tensor", "application/x-npy", npy.getvalue(), _numbers(work.mean(image))),
        Scenario("batch", "call", json_type, _instances([[1, 2, 3, 4]]), _numbers(np.array([[10.0]]))),
        *(_pages(name, size) for name, size in SIZES.items()),
        Scenario("mortal", "mortal", json_type, ECHO, _check_same),
    )
    return {scenario.name: scenario for scenario in scenarios}


def _pages(name: str, size: int) -> Scenario:
    body = np.random.default_rng(SEED).integers(0, 256, size, np.uint8).tobytes()
    wanted = work.pages(body)

    def check(found: bytes) -> None:
        if json.loads(found) != wanted:
            raise ValueError(f"the answer is {found[:200]!r}; it should be {wanted}")

    return Scenario(name, "pages", "application/octet-stream", body, check)


def check_constant(body: bytes) -> None:
    """A yardstick's answer to anything."""
    if body != ECHO:
        raise ValueError(f"the answer is {body[:200]!r}; it should be {ECHO!r}")


def _check_same(body: bytes) -> None:
    """Some servers decode the body and encode it again, with other blanks."""
    if json.loads(body) != json.loads(ECHO):
        raise ValueError(f"the answer is {body[:200]!r}; it should be {ECHO!r}")


def _instances(rows: list[list[float]]) -> bytes:
    return json.dumps({"instances": rows}).encode()


def _numbers(wanted: Any) -> Callable[[bytes], None]:
    def check(body: bytes) -> None:
        found = np.asarray(json.loads(body)["predictions"])
        if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=1e-4, atol=1e-5):
            raise ValueError(f"the answer is {body[:200]!r}; predictions should be {wanted.tolist()}")

    return check
