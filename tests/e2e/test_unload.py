"""What models leave when they go: nothing that can be counted; and what cannot, goes with the worker that held it."""

from pathlib import Path

from conftest import Server, wait_until, write_model

MODEL = """
from dataclasses import dataclass
import functools, logging
import numpy as np
from headrace import Model
log = logging.getLogger(__name__)
@dataclass
class Part:
    x: int
@functools.lru_cache
def part(x):
    return Part(x)
class M(Model):
    def load(self, directory):
        self.parts = [part(i) for i in range(3)]
    def predict(self, x):
        return x + self.parts[1].x
"""
COUNTS = """
import gc, os, sys, threading
from headrace import Model
class Counts(Model):
    def handle(self, requests):
        gc.collect()
        return [{
            "objects": len(gc.get_objects()),
            "modules": len(sys.modules),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count(),
        } for _ in requests]
"""
LITTER = """
import builtins
import numpy as np
from headrace import Model
class Litter(Model):
    def load(self, directory):
        builtins._litter = np.ones(3 << 20)
    def predict(self, x):
        return x
"""


def load(server: Server, name: str, directory: Path) -> None:
    answer = server.manage("POST", "/models", {"model_name": name, "url": str(directory)})
    assert answer.status == 200, answer.body


def test_cycles_of_load_use_and_unload_leave_nothing_that_can_be_counted(serve, tmp_path):
    write_model(tmp_path / "m", MODEL)
    server = serve(write_model(tmp_path / "counts", COUNTS), "--model-store", str(tmp_path), HEADRACE_WORKERS="1")

    def cycles(count: int) -> None:
        for i in range(count):
            load(server, f"m{i}", tmp_path / "m")
            assert server.post(f"/models/m{i}/invoke", b"[[1,2]]").json() == {"predictions": [[2, 3]]}
            assert server.manage("DELETE", f"/models/m{i}").status == 200

    cycles(5)
    held, counts = server.held(), server.post("/models/counts/invoke", b"").json()
    cycles(60)
    assert server.post("/models/counts/invoke", b"").json() == counts
    server.check_holds_no_more_than(held)


def test_worker_whose_models_are_gone_but_not_what_they_took_is_followed_by_a_fresh_one(serve, tmp_path):
    write_model(tmp_path / "litter", LITTER)
    server = serve(HEADRACE_WORKERS="2", HEADRACE_EXTRA_WORKERS="0", SAGEMAKER_MULTI_MODEL="true")
    before = {process.pid for process in server.named("worker")}
    load(server, "m", tmp_path / "litter")
    assert server.manage("DELETE", "/models/m").status == 200
    wait_until(lambda: server.metric("headrace_recyclings_total") == 1, "the worker stays as it is")
    wait_until(lambda: len(server.named("worker")) == 2, "no successor")
    assert len(before & {process.pid for process in server.named("worker")}) == 1
    load(server, "m", tmp_path / "litter")
