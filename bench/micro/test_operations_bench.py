"""Each operation of a request by itself: `pytest bench/micro/test_operations_bench.py --benchmark-enable`.

Times are of CALLS calls, since one alone is shorter than reading the clock. A round of `ring_round` is there and back
between two threads: awake, on two cores that look at the rings; asleep, with a futex and a wake-up each way.
"""

from typing import Any

import pytest

from bench.micro.operations import OPERATIONS, ROUNDS

CALLS = 100


@pytest.mark.parametrize("name", [*OPERATIONS, *ROUNDS])
def test_operation(benchmark: Any, name: str) -> None:
    benchmark.group = f"operations, {CALLS} calls"
    benchmark({**OPERATIONS, **ROUNDS}[name](), CALLS)
