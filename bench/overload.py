"""More than can be done: an open loop at one, two and three times the measured capacity. `python -m bench.overload`.

The model spends 1.5 ms of its core on each request and takes no batches, so the capacity is known and cannot grow. What
is accepted must be as much as the capacity and be answered in bounded time; the rest must be refused, at little cost:
who spent how much of a core is in the result. The load generator runs on the frontend's cores, not on the worker's.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import environment, procfs, promise, report
from bench.errors import BenchError
from bench.servers import HERE, HOST, Running, Server
from headrace.loadgen import Plan, Report, Request, percentile_ms, run

RESULT = HERE / "results" / "overload.json"
LOADS = (1, 2, 3)  # times the capacity
LEAST = 0.9  # of the capacity that is to be answered under more
CONNECTIONS = 16  # that find the capacity out
SPARE = 256  # connections beside those whose requests wait in the queue
WARM_UP_S = 1.0
BODY = b'{"ask": 1}'
REQUEST = Request("/models/costly/invoke", BODY, headers={"Content-Type": "application/json"}, expected=BODY)
MODEL = """
import time
from headrace import Model

class Costly(Model):
    max_batch_size = 1

    def handle(self, requests):
        end = time.thread_time_ns() + 1_500_000
        while time.thread_time_ns() < end:
            pass
        return [bytes(request.body) for request in requests]
"""


def measure(rounds: int, seconds: float, queues: list[int]) -> dict[str, Any]:
    described = environment.describe(["python", "-m", "bench.overload", *sys.argv[1:]])
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "model.py").write_text(MODEL)
        for index in range(rounds):
            for queue in queues[:: -1 if index % 2 else 1]:
                runs += [
                    {"round": index + 1, "queue": queue, **each} for each in _loads(scratch, queue, seconds, index)
                ]
    return {"bench": "overload", "environment": described, "seconds": seconds, "rounds": rounds, "runs": runs}


def _loads(directory: str, queue: int, seconds: float, seed: int) -> Iterator[dict[str, Any]]:
    words = [sys.executable, "-m", "headrace", "serve", f"costly={directory}", "--workers", "1", "--queue", str(queue)]
    server = Server(
        "headrace", lambda port, management: [*words, "--port", str(port), "--management-port", str(management)]
    )
    with server.running() as running, _away_from_workers(running):
        url = f"http://{HOST}:{running.port}"
        found = run(Plan(url, [REQUEST], CONNECTIONS, duration_s=seconds, warm_up_s=WARM_UP_S))
        if found.failures:
            raise BenchError(f"the server cannot be saturated: {dict(found.failed)}")
        for times in LOADS:
            before, began = _cpu_us(running), time.monotonic()
            plan = Plan(
                url,
                [REQUEST],
                queue + SPARE,
                rate=times * found.rate,
                arrivals="poisson",
                duration_s=seconds,
                warm_up_s=WARM_UP_S,
                seed=seed,
            )
            outcome = run(plan)
            took_us = (time.monotonic() - began) * 1e6
            spent = {name: (us - before[name]) / took_us for name, us in _cpu_us(running).items()}
            figures = {"times": times, "capacity_per_s": found.rate, "cpu": spent, **_figures(outcome)}
            print(figures, file=sys.stderr)
            yield figures


def _figures(outcome: Report) -> dict[str, Any]:
    named = {"p50": 50, "p99": 99, "p999": 99.9, "max": 100}
    return {
        "planned_per_s": outcome.planned / outcome.seconds,
        "goodput_per_s": outcome.rate,
        "good": outcome.good,
        "failed": dict(outcome.failed),
        "statuses": {str(status): count for status, count in outcome.statuses.items()},
        **{
            f"{kind}_ms": {name: percentile_ms(found, percent) for name, percent in named.items()}
            for kind, found in (("accepted", outcome.latency), ("refused", outcome.refused), ("late", outcome.lateness))
            if found.count
        },
    }


def _cpu_us(running: Running) -> dict[str, float]:
    """CPU time so far: of the frontend, the worker, and the load generator, which is this process."""
    found = {"generator": time.process_time() * 1e6}
    for pid, stat in procfs.tree(running.pid).items():
        for name in ("frontend", "worker"):
            if procfs.title(pid).startswith(f"headrace: {name}"):
                found[name] = stat.cpu_us
    return found


@contextmanager
def _away_from_workers(running: Running) -> Iterator[None]:
    """What the model has of its core must not depend on the load generator."""
    before = os.sched_getaffinity(0)
    workers = [pid for pid in procfs.tree(running.pid) if procfs.title(pid).startswith("headrace: worker")]
    taken = set().union(*map(os.sched_getaffinity, workers))
    os.sched_setaffinity(0, before - taken or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def judge(runs: list[dict[str, Any]]) -> list[str]:
    """What is not as promised: goodput within a tenth of the capacity (medians over rounds), and all answered."""
    found = []
    for (queue, times), group in _groups(runs).items():
        part = statistics.median(each["goodput_per_s"] / each["capacity_per_s"] for each in group)
        if times > 1 and part < LEAST:
            found.append(f"queue {queue}, {times} times the capacity: {100 * part:.0f} % of the capacity were answered")
    for each in runs:
        failed = {word: count for word, count in each["failed"].items() if count and word != "refused"}
        if failed or set(each["statuses"]) - {"200", "503"}:
            found.append(
                f"round {each['round']}, queue {each['queue']}, {each['times']} times the capacity: {failed}, "
                f"statuses {each['statuses']}"
            )
    return found


def render(result: dict[str, Any]) -> str:
    """Medians and the spread over rounds, as Markdown."""
    heads = ["queue", "load", "answered, of the capacity", "refused", "p50 ms", "p99 ms", "refusals' p99 ms"]
    heads += ["frontend, of a core", "load generator"]
    lines = []
    for (queue, times), runs in sorted(_groups(result["runs"]).items()):
        goodput = [100 * each["goodput_per_s"] / each["capacity_per_s"] for each in runs]
        refused = [100 * each["failed"]["refused"] / (each["good"] + sum(each["failed"].values())) for each in runs]
        answered = [[each["accepted_ms"][name] for each in runs] for name in ("p50", "p99")]
        turned_away = [each["refused_ms"]["p99"] for each in runs if "refused_ms" in each]
        spent = [[100 * each["cpu"][name] for each in runs] for name in ("frontend", "generator")]
        lines.append(
            [str(queue), f"{times}x"]
            + [_spread(goodput) + " %", _spread(refused) + " %"]
            + [_spread(figures) for figures in (*answered, turned_away)]
            + [_spread(figures) + " %" for figures in spent]
        )
    return report.table(heads, lines)


def _groups(runs: list[dict[str, Any]]) -> dict[tuple[int, int], list[dict[str, Any]]]:
    found: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for each in runs:
        found.setdefault((each["queue"], each["times"]), []).append(each)
    return found


def _spread(figures: list[float]) -> str:
    return report.shown(report.spread(figures) if figures else None, digits=1 if figures and max(figures) < 10 else 0)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser("bench.overload", description="Offer more than can be done, in an open loop.")
    parser.add_argument("--rounds", type=int, default=3, help="[default: %(default)s]")
    parser.add_argument("--seconds", type=float, default=3, help="of each load [default: %(default)s]")
    parser.add_argument("--queues", type=int, nargs="+", default=[100, 1000], help="[default: %(default)s]")
    promise.add_flags(parser, RESULT)
    arguments = parser.parse_args(words)
    return promise.keep(
        arguments, lambda: measure(arguments.rounds, arguments.seconds, arguments.queues), judge, render
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
