"""Does the budget hold, and is the cache as good as an ideal one: Zipf traffic over more models than fit.

    python -m bench.cache_trace [--models 2000] [--fit 500] [--requests 10000] [--rounds 3] [--limit-mib 0]

All models are registered; the budget is what a server takes that has loaded and used `fit` of them. Four clients send
one trace in its order; each answer is checked. Memory is the proportional set size of all processes, sampled. The same
trace runs through a simulated least-recently-used cache of `fit` models. Each round has a fresh server and
another trace. With --limit-mib the server runs in a control group of that size, with the budget that it takes by itself
there, and the simulated cache has as many models as are resident when the trace ends; as root.
"""

import argparse
import contextlib
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench import cgroup, procfs, store
from bench.errors import BenchError

EXPONENT = 0.9
RESERVE = 0.97  # of the budget is for admission (budget.RESERVE_SHARE)
SAMPLE_S = 0.25


def ideal_hits(trace: Sequence[int], capacity: int, warm: Sequence[int]) -> int:
    """Hits of a least-recently-used cache of that many models; warm: what it was filled with, in order."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for turn, model in enumerate([*warm, *trace]):
        if model in cache:
            cache.move_to_end(model)
            hits += turn >= len(warm)
        else:
            cache[model] = None
            if len(cache) > capacity:
                cache.popitem(last=False)
    return hits


def main() -> int:
    options = {"models": 2000, "fit": 500, "requests": 10_000, "rounds": 3, "workers": 2, "limit_mib": 0}
    return store.run("cache_trace", __doc__, options, measure)


def measure(place: Path, options: argparse.Namespace) -> dict[str, object]:
    store.write(place, options.models)
    rounds = [one_round(place, options, seed) for seed in range(options.rounds)]
    sizes = {name: getattr(options, name) for name in ("models", "fit", "requests", "workers", "limit_mib")}
    return {**sizes, "exponent": EXPONENT, "spread": store.spread(rounds), "rounds": rounds}


def one_round(place: Path, options: argparse.Namespace, seed: int) -> dict[str, float]:
    models, fit, requests = options.models, options.fit, options.requests
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, models + 1) ** EXPONENT
    trace = rng.permutation(models)[rng.choice(models, requests, p=weights / weights.sum())].tolist()
    errors: list[str] = []

    def invoke(client: store.Client, model: int) -> None:
        try:
            client.invoke(model)
        except BenchError as error:
            errors.append(str(error))

    with contextlib.ExitStack() as stack:
        group = stack.enter_context(cgroup.limited(options.limit_mib << 20)) if options.limit_mib else None
        asked = None if group else _budget_for(fit, place, options.workers)
        server = store.server(place, asked, options.workers, before=group.words() if group else ())
        running = stack.enter_context(server.running())
        client = store.Client(running.port, place)
        store.in_parallel(store.Client.load, running.port, place, range(models))
        before = client.metrics()
        peaks, done = [0], threading.Event()
        sampler = threading.Thread(target=_sample, args=(running.pid, peaks, done))
        sampler.start()
        began = time.monotonic()
        try:
            store.in_parallel(invoke, running.port, place, trace)
        finally:
            done.set()
            sampler.join()
        took_s = time.monotonic() - began
        after = client.metrics()
        of_group = (
            {}
            if group is None
            else {"group_peak_mib": round(group.peak_bytes() / 2**20, 1), "killed_for_memory": group.kills()}
        )
    if errors:
        print(f"cache_trace: {len(errors)} errors, the first: {errors[0]}", file=sys.stderr)
    resident = 'headrace_models{state="resident"}'
    evictions = sum(after[name] - before[name] for name in after if name.startswith("headrace_evictions_total"))
    reloads = evictions + after[resident] - before[resident]
    hit_rate = 1 - reloads / requests
    capacity = int(after[resident]) if options.limit_mib else fit
    ideal = ideal_hits(trace, capacity, range(models)) / requests
    budget = after["headrace_memory_budget_bytes"]
    return {
        "errors": len(errors),
        "resident_before": before[resident],
        "resident_after": after[resident],
        "requests_per_s": round(requests / took_s, 1),
        "reloads": reloads,
        "hit_percent": round(100 * hit_rate, 2),
        "ideal_hit_percent": round(100 * ideal, 2),
        "budget_mib": round(budget / 2**20, 1),
        "peak_pss_mib": round(max(peaks) / 2**20, 1),
        "peak_percent_of_budget": round(100 * max(peaks) / budget, 1),
        "refused": after["headrace_refused_loads_total"],
        **of_group,
    }


def _budget_for(fit: int, place: Path, workers: int) -> int:
    """The budget of a server that has loaded and used so many models."""
    with store.server(place, None, workers).running() as running:
        for act in (store.Client.load, store.Client.invoke):
            store.in_parallel(act, running.port, place, range(fit))
        used = store.Client(running.port, place).metrics()["headrace_memory_measured_bytes"]
    return int(used / RESERVE)


def _sample(pid: int, peaks: list[int], done: threading.Event) -> None:
    while not done.wait(SAMPLE_S):
        peaks.append(procfs.pss_bytes(pid))


if __name__ == "__main__":
    sys.exit(main())
