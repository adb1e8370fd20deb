"""How long nobody serves after a worker's death: `python -m bench.recovery`.

The only worker is killed again and again while nothing else goes on, and a request is sent at once. The server says in
its log how long after its notice of the death the successor served all that its predecessor had (`worker.serving`), and
how much of that its models' loads took; the client says how long it waited for its answer.
"""

import argparse
import os
import re
import signal
import statistics
import sys
import time
from typing import Any

from bench import environment, procfs, promise, report, servers
from bench.errors import BenchError
from bench.scenarios import Scenario, all_scenarios
from bench.servers import HERE, Running
from bench.toolchain import BUILD

RESULT = HERE / "results" / "recovery.json"
MOST_MS = 100.0  # from the notice to serving, without the loads; the median is held to it
LIFE_S = 0.7  # of each worker: one that dies at its start is not replaced at once
SERVING = re.compile(r" worker\.serving .*?\bafter_ms=(\S+) of_which_loads_ms=(\S+)")
SERVING_S = 30.0
FIGURES = ("notice_to_serving_ms", "loads_ms", "without_loads_ms", "kill_to_answer_ms")


def measure(deaths: int) -> dict[str, Any]:
    described = environment.describe(["python", "-m", "bench.recovery", *sys.argv[1:]])
    echo = all_scenarios()["echo"]
    runs = []
    with servers.headrace().running() as running:
        running.await_right(echo)
        for number in range(deaths):
            time.sleep(LIFE_S)
            runs.append(_kill(running, echo, number))
    return {"bench": "recovery", "environment": described, "models": list(servers.PLAIN.models), "runs": runs}


def _kill(running: Running, scenario: Scenario, number: int) -> dict[str, float]:
    (worker,) = (pid for pid in procfs.tree(running.pid) if procfs.title(pid).startswith("headrace: worker"))
    connection = running.connect()
    connection.connect()
    began = time.perf_counter()
    os.kill(worker, signal.SIGKILL)
    running.ask(connection, scenario)
    answered_ms = (time.perf_counter() - began) * 1e3
    connection.close()
    until = time.monotonic() + SERVING_S
    while len(found := SERVING.findall((BUILD / "headrace.log").read_text())) <= number:
        if time.monotonic() > until:
            raise BenchError(f"no worker served within {SERVING_S:g} s of death {number + 1}")
        time.sleep(0.01)
    after_ms, loads_ms = map(float, found[number])
    return dict(zip(FIGURES, (after_ms, loads_ms, after_ms - loads_ms, answered_ms), strict=True))


def render(result: dict[str, Any]) -> str:
    heads = ["ms", "median", "p99", "largest"]
    lines = []
    for name in FIGURES:
        ordered = sorted(run[name] for run in result["runs"])
        chosen = (statistics.median(ordered), ordered[int(0.99 * (len(ordered) - 1))], ordered[-1])
        lines.append([name.removesuffix("_ms").replace("_", " "), *(f"{figure:.1f}" for figure in chosen)])
    return report.table(heads, lines)


def judge(runs: list[dict[str, float]]) -> list[str]:
    median = statistics.median(run["without_loads_ms"] for run in runs)
    return [f"{median:.1f} ms from the notice to serving, loads left out"] if median > MOST_MS else []


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser("bench.recovery", description="Kill the worker, and see how soon another serves.")
    parser.add_argument("--deaths", type=int, default=50, help="[default: %(default)s]")
    promise.add_flags(parser, RESULT)
    arguments = parser.parse_args(words)
    return promise.keep(arguments, lambda: measure(arguments.deaths), judge, render)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
