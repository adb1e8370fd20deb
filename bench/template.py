"""What a handler with a process of its own costs: memory beyond its weights, and the time from POST /models to 200.

    python -m bench.template [--models 10] [--requests 1000] [--rounds 3]

small: handlers of Multi Model Server's kind that need numpy alone, ten loaded, 1,000 requests to each. torch, where it
is installed: a handler that imports torch and holds a 16 MiB weight matrix, with and without torch among the
template's imports (HEADRACE_TEMPLATE_IMPORTS). Memory is read by the kernel: the proportional set size of a model's
process, and its private pages less the weights. Each round has a fresh server.
"""

import argparse
import importlib.util
import re
import sys
import time
from pathlib import Path

from bench import procfs, store
from bench.errors import BenchError

MANIFEST = '{"model": {"modelName": "m", "handler": "service.py:handle"}}'
SMALL = """
import json

import numpy as np

weights = None


def handle(data, context):
    global weights
    if weights is None:
        weights = np.ones((256, 256), np.float32)
    if data is None:
        return None
    return [json.dumps(float((np.ones(256, np.float32) @ weights).sum())) for _ in data]
"""
TORCH = """
import json

import torch

weights = None


def handle(data, context):
    global weights
    if weights is None:
        weights = torch.ones((2048, 2048))
    if data is None:
        return None
    return [json.dumps(float((torch.ones(2048) @ weights).sum())) for _ in data]
"""
WORKERS = 2  # that are shared; the models have their own
SIDES = {"small": 256, "torch": 2048}  # of the square matrix of float32


def main() -> int:
    return store.run("template", __doc__, {"models": 10, "requests": 1000, "rounds": 3}, compare)


def compare(place: Path, options: argparse.Namespace) -> dict[str, object]:
    has_torch = importlib.util.find_spec("torch") is not None
    cases = {"small": ("small", options.models, "numpy")}
    if has_torch:
        cases["torch_in_template"] = ("torch", 2, "numpy,torch")
        cases["torch_by_handler"] = ("torch", 2, "numpy")
    figures: dict[str, object] = {"models": options.models, "requests": options.requests, "torch": None}
    if has_torch:
        figures["torch"] = importlib.import_module("torch").__version__
    for name, (kind, models, imports) in cases.items():
        rounds = [
            measure(place / name / str(i), kind, models, imports, options.requests) for i in range(options.rounds)
        ]
        figures[name] = {"spread": store.spread(rounds), "rounds": rounds}
    return figures


def write(place: Path, kind: str, models: int) -> None:
    for i in range(models):
        (place / f"m{i}" / "MAR-INF").mkdir(parents=True)
        (place / f"m{i}" / "MAR-INF" / "MANIFEST.json").write_text(MANIFEST)
        (place / f"m{i}" / "service.py").write_text(SMALL if kind == "small" else TORCH)


def measure(place: Path, kind: str, models: int, imports: str, requests: int) -> dict[str, float]:
    """Figures of the models that come after the first, which brings what the first load of all brings."""
    write(place, kind, models)
    side = SIDES[kind]
    with store.server(place, None, WORKERS, imports).running() as running:
        client = store.Client(running.port, place)
        loads_ms = []
        for i in range(models):
            began = time.monotonic()
            client.load(i)
            loads_ms.append((time.monotonic() - began) * 1e3)
        for _ in range(requests):
            for i in range(models):
                if (answer := client.ask(f"m{i}")) != float(side * side):
                    raise BenchError(f"m{i} answered {answer}")
        own = [pid for pid in procfs.tree(running.pid) if _worker(pid) >= WORKERS]
        used = [_memory(pid) for pid in own]
    if len(used) != models:
        raise BenchError(f"{models} models have {len(used)} processes")
    weights_mb = 4 * side * side / 1e6
    return {
        "first_load_ms": round(loads_ms[0], 1),
        "load_ms": round(sorted(loads_ms[1:])[(models - 1) // 2], 1),
        "slowest_load_ms": round(max(loads_ms[1:]), 1),
        "pss_mb": round(max(pss for pss, _ in used) / 1e6, 2),
        "private_beyond_weights_mb": round(max(private for _, private in used) / 1e6 - weights_mb, 2),
    }


def _worker(pid: int) -> int:
    """The worker's number, of which the shared ones have the first; -1 for other processes."""
    found = re.search(r"worker (\d+)$", procfs.title(pid))
    return int(found[1]) if found else -1


def _memory(pid: int) -> tuple[int, int]:
    """Proportional set size and private dirty pages, in bytes."""
    text = (procfs.PROC / str(pid) / "smaps_rollup").read_text()
    found = dict(re.findall(r"^(Pss|Private_Dirty): +(\d+) kB$", text, re.MULTILINE))
    return int(found["Pss"]) << 10, int(found["Private_Dirty"]) << 10


if __name__ == "__main__":
    sys.exit(main())
