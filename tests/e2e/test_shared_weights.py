"""Replicas of one model have its weights once, are charged for them once, and give them back."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import Server, wait_until

MIB = 1 << 20
WEIGHTS = 64 * MIB
SLACK = 16 * MIB  # for anything else: a replica in a process of its own, two workers' first requests
# A budget far below what the machine has, so that strangers' memory does not count.
SETTINGS = {"HEADRACE_WORKERS": "2", "HEADRACE_ARENA": "16MiB", "HEADRACE_MEMORY_BUDGET": "1GiB"}
TOTAL = float(WEIGHTS // 4)

NATIVE = """
import os
import numpy as np
from headrace import Model
class Shared(Model):
    def load(self, directory):
        self.w = np.load(directory / "weights.npz")["w"]
    def handle(self, requests):
        if requests[0].body == b"write":
            self.w[:4096] = 2
        return [[os.getpid(), float(self.w.sum(dtype=np.float64))] for _ in requests]
"""
NPY = NATIVE.replace('"weights.npz")["w"]', '"weights.npy")')
HANDLER = """
import os
import numpy as np
from headrace import weights
class Service:
    def initialize(self, context):
        path = os.path.join(context.system_properties["model_dir"], "weights.npz")
        self.w = weights.share("w", lambda: np.load(path)["w"].reshape(2, -1))
    def handle(self, data, context):
        return [[os.getpid(), float(self.w.sum(dtype=np.float64))] for _ in data]
"""


@pytest.fixture
def model(tmp_path):
    """model(SOURCE) writes one with weights of ones, and gives its path."""

    def write(source: str) -> str:
        directory = tmp_path / "m"
        directory.mkdir()
        (directory / ("service.py" if source is HANDLER else "model.py")).write_text(source)
        ones = np.ones(WEIGHTS // 4, np.float32)
        np.save(directory / "weights.npy", ones) if source is NPY else np.savez(directory / "weights.npz", w=ones)
        return str(directory)

    return write


def used(server: Server) -> float:
    return server.metric("headrace_memory_used_bytes")


def ask(server: Server, body: bytes) -> tuple[int, float]:
    return tuple(server.post("/models/m/invoke", body, Content_Type="application/octet-stream").json())


def answers(server: Server, count: int) -> dict[int, float]:
    """What *count* replicas answered, by process."""
    found: dict[int, float] = {}

    def are_all_there() -> bool:
        with ThreadPoolExecutor(8) as pool:
            found.update(pool.map(lambda _: ask(server, b"?"), range(16)))
        return len(found) >= count

    wait_until(are_all_there, f"answers of {count} replicas")
    return found


@pytest.mark.parametrize("source", [NATIVE, NPY, HANDLER], ids=["npz", "npy", "handler"])
def test_a_second_replica_costs_next_to_nothing_and_all_comes_back(serve, model, tmp_path, source):
    server = serve("--model-store", str(tmp_path), **SETTINGS)
    empty = used(server)
    named = {"handler": "service:Service"} if source is HANDLER else {}
    loaded = server.manage("POST", "/models", {"url": model(source), "model_name": "m", "initial_workers": 1, **named})
    assert loaded.status == 200, loaded.body
    assert set(answers(server, 1).values()) == {TOTAL}
    one = used(server)
    assert WEIGHTS - SLACK < one - empty < WEIGHTS + SLACK
    scaled = server.manage("PUT", "/models/m?min_worker=2&synchronous=true")
    assert scaled.status == 200, scaled.body
    assert set(answers(server, 2).values()) == {TOTAL}
    assert used(server) - one < SLACK
    assert server.manage("DELETE", "/models/m").status == 200
    wait_until(lambda: used(server) < empty + SLACK, "the memory to be back")


def test_a_replica_that_writes_writes_for_itself(serve, model):
    server = serve(f"m={model(NATIVE)}", **SETTINGS)
    server.manage("PUT", "/models/m?min_worker=2&synchronous=true")
    assert len(answers(server, 2)) == 2
    writer, total = ask(server, b"write")
    assert total == TOTAL + 4096
    found = answers(server, 2)
    assert found.pop(writer) == total
    assert set(found.values()) == {TOTAL}


def test_a_successor_has_the_weights_of_the_worker_that_died(serve, model):
    server = serve(f"m={model(NATIVE)}", **{**SETTINGS, "HEADRACE_WORKERS": "1"})
    (victim,) = answers(server, 1)
    before = used(server)
    os.kill(victim, signal.SIGKILL)
    (successor,) = answers(server, 1)
    assert successor != victim
    assert abs(used(server) - before) < SLACK
