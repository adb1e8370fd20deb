"""What a second replica of a large model costs: memory, and the time until it serves.

    python -m bench.replica [--mib 200] [--rounds 5]

One worker has the model; PUT /models/big?min_worker=2&synchronous=true has another one load it, and is timed. Memory is
the proportional set size of all processes, read by the kernel after requests that read all of the weights. The torch
model is measured where torch is installed. Each round has a fresh server.
"""

import argparse
import importlib.util
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bench import procfs, store
from bench.errors import BenchError

ROWS = 1024  # of the matrix; its columns make up the size
SPREAD = 16  # requests, so that each replica has had some

NUMPY = """
import os
import numpy as np
from headrace import Model


class Big(Model):
    def load(self, directory):
        self.w = np.load(directory / "weights.npz")["w"]

    def handle(self, requests):
        total = float(self.w.sum(dtype=np.float64))
        return [[os.getpid(), total] for _ in requests]
"""
TORCH = """
import os
import torch
from headrace import Model, weights


class Big(Model):
    def load(self, directory):
        self.net = weights.torch_module(lambda: torch.nn.Linear(COLUMNS, ROWS, bias=False), directory / "net.pt")

    def handle(self, requests):
        total = float(self.net.weight.sum(dtype=torch.float64))
        return [[os.getpid(), total] for _ in requests]
"""


def main() -> int:
    return store.run("replica", __doc__, {"mib": 200, "rounds": 5}, compare)


def compare(place: Path, options: argparse.Namespace) -> dict[str, object]:
    columns = options.mib * (1 << 20) // (4 * ROWS)
    figures: dict[str, object] = {"mib": options.mib, "torch": None}
    for kind in ("numpy", "torch") if importlib.util.find_spec("torch") else ("numpy",):
        folder = place / kind
        write(folder / "big", kind, columns)
        figures[kind] = [measure(folder, kind, columns) for _ in range(options.rounds)]
        shutil.rmtree(folder)
    return figures


def write(directory: Path, kind: str, columns: int) -> None:
    directory.mkdir(parents=True)
    ones = np.ones((ROWS, columns), np.float32)
    if kind == "numpy":
        (directory / "model.py").write_text(NUMPY)
        np.savez(directory / "weights.npz", w=ones)
    else:
        torch = importlib.import_module("torch")
        (directory / "model.py").write_text(TORCH.replace("COLUMNS", str(columns)).replace("ROWS", str(ROWS)))
        torch.save({"weight": torch.from_numpy(ones)}, directory / "net.pt")


def measure(place: Path, kind: str, columns: int) -> dict[str, float]:
    imports = "numpy" if kind == "numpy" else "numpy,torch"
    with store.server(place, None, 2, imports).running() as running:
        client = store.Client(running.port, place)
        empty_bytes = procfs.pss_bytes(running.pid)
        began = time.monotonic()
        client.register("big")
        first_s = time.monotonic() - began
        client.scale("big", 1)  # and no more, however many ask
        ask(running.port, place, columns, 1)
        one_bytes = procfs.pss_bytes(running.pid)
        began = time.monotonic()
        client.scale("big", 2)
        second_s = time.monotonic() - began
        ask(running.port, place, columns, 2)
        two_bytes = procfs.pss_bytes(running.pid)
    return {
        "first_ms": round(first_s * 1e3, 1),
        "first_mib": round((one_bytes - empty_bytes) / 2**20, 2),
        "second_ms": round(second_s * 1e3, 1),
        "second_mib": round((two_bytes - one_bytes) / 2**20, 2),
    }


def ask(port: int, place: Path, columns: int, replicas: int) -> None:
    """Requests until each replica has answered; each answer is checked. BenchError when one never does."""

    def one(_: int) -> int:
        pid, total = store.Client(port, place).ask("big")
        if total != ROWS * columns:
            raise BenchError(f"the sum of the weights is {total}, not {ROWS * columns}")
        return int(pid)

    found: set[int] = set()
    for _ in range(SPREAD):
        with ThreadPoolExecutor(2 * replicas) as pool:
            found.update(pool.map(one, range(SPREAD)))
        if len(found) == replicas:
            return
    raise BenchError(f"only {len(found)} of {replicas} replicas ever answered")


if __name__ == "__main__":
    sys.exit(main())
