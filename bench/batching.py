"""What batches are worth: one model served without, with natural and with tuned batches, in turns.

    python -m bench.batching [--rounds 3] [--seconds 2] [--output RESULT.json]

`mlp` at one and at 64 connections compares max_batch_size 1 with the default. `call` is a model that spends 1 ms a call
and 20 us a row, under a target of 20 ms: without batches, with natural ones and tuned; and how the tuned one's
throughput and p99 move, second by second, from its start to where its plan stays.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from bench import environment, procfs, servers, wrk
from bench.errors import BenchError
from bench.scenarios import Scenario, all_scenarios
from bench.servers import HERE, Server

RESULT = HERE / "results" / "batching.json"
TARGET_MS = 20
CONVERGENCE_S = 6
CALL = '''
import time
import numpy as np
from headrace import Model

class Call(Model):
    """1 ms a call and 20 us a row, spun away: the cost curve is known, and the core is used as by a real model."""
    shape = (4,)
    SETTING

    def predict(self, x):
        end = time.perf_counter_ns() + 1_000_000 + 20_000 * len(x)
        while time.perf_counter_ns() < end:
            pass
        return x.sum(axis=1, keepdims=True)
'''
VARIANTS = {
    "alone": "max_batch_size = 1",
    "natural": "max_batch_size = 64",
    "tuned": f"max_batch_size = 64; target_latency_ms = {TARGET_MS}",
}
BODY = json.dumps({"instances": [[1, 2, 3, 4]]}).encode()


def _check(body: bytes) -> None:
    if json.loads(body) != {"predictions": [[10.0]]}:
        raise ValueError(f"the answer is {body[:200]!r}")


def mlp(name: str, *words: str) -> tuple[Server, Scenario]:
    server = servers.headrace(name)
    command = server.command
    return Server(name, lambda port, management: [*command(port, management), *words]), all_scenarios()["mlp"]


def call(variant: str, directory: Path) -> tuple[Server, Scenario]:
    (directory / "model.py").write_text(CALL.replace("SETTING", VARIANTS[variant]))
    words = [sys.executable, "-m", "headrace", "serve", f"call={directory}", "--workers", "1", "--frontends", "1"]
    server = Server(
        variant, lambda port, management: [*words, "--port", str(port), "--management-port", str(management)]
    )
    return server, Scenario("call", "call", "application/json", BODY, _check)


def load(server: Server, scenario: Scenario, connections: int, body: Path, seconds: int) -> dict[str, Any]:
    with server.running() as running:
        running.check(scenario)
        url = running.url(scenario)
        wrk.run(url, body, server.ask(scenario).headers, connections, 1)
        before = procfs.tree(running.pid)
        found = wrk.run(url, body, server.ask(scenario).headers, connections, seconds)
        after = procfs.tree(running.pid)
        running.check(scenario)
    _refuse_errors(server, found)
    cpu_us = sum(stat.cpu_us for stat in after.values()) - sum(stat.cpu_us for stat in before.values())
    return _figures(found) | {"cpu_us_per_request": cpu_us / found.requests}


def converge(server: Server, scenario: Scenario, connections: int, body: Path) -> list[dict[str, Any]]:
    """Second by second from the first request on."""
    seconds = []
    with server.running() as running:
        for _ in range(CONVERGENCE_S):
            found = wrk.run(running.url(scenario), body, server.ask(scenario).headers, connections, 1)
            _refuse_errors(server, found)
            seconds.append(_figures(found))
    return seconds


def _figures(found: wrk.Load) -> dict[str, Any]:
    return {
        "requests_per_s": found.requests * 1e6 / found.duration_us,
        "p50_us": found.p50_us,
        "p99_us": found.p99_us,
    }


def _refuse_errors(server: Server, found: wrk.Load) -> None:
    if any(found.errors.values()) or not found.requests:
        raise BenchError(f"{server.name}: {found.requests} answers, errors {found.errors}")


def measure(rounds: int, seconds: int) -> dict[str, Any]:
    described = environment.describe(["python", "-m", "bench.batching", *sys.argv[1:]])
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        points = []
        for pair in (mlp("alone", "--max-batch-size", "1"), mlp("natural")):
            points += [(pair, connections) for connections in (1, 64)]
        for variant in VARIANTS:
            directory = Path(scratch, variant)
            directory.mkdir()
            points += [(call(variant, directory), connections) for connections in (1, 8, 64)]
        body = Path(scratch, "body")
        for index in range(rounds):
            for (server, scenario), connections in points[:: -1 if index % 2 else 1]:
                body.write_bytes(scenario.body)
                figures = load(server, scenario, connections, body, seconds)
                runs.append(
                    {"round": index + 1, "scenario": scenario.name, "batches": server.name, "connections": connections}
                    | figures
                )
                print(runs[-1], file=sys.stderr)
        server, scenario = call("tuned", Path(scratch, "tuned"))
        body.write_bytes(scenario.body)
        convergence = converge(server, scenario, 64, body)
    return {
        "bench": "batching",
        "environment": described,
        "target_ms": TARGET_MS,
        "runs": runs,
        "convergence": convergence,
    }


def render(result: dict[str, Any]) -> str:
    """Medians and the spread over rounds, as Markdown."""
    lines = [
        "| scenario | connections | batches | requests/s | over alone | p50 us | p99 us | CPU us/request |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for run in result["runs"]:
        groups.setdefault((run["scenario"], run["connections"], run["batches"]), []).append(run)
    for (scenario, connections, batches), runs in sorted(groups.items()):
        alone = {run["round"]: run["requests_per_s"] for run in groups[scenario, connections, "alone"]}
        ratios = [run["requests_per_s"] / alone[run["round"]] for run in runs]
        shown = [_spread([run[key] for run in runs]) for key in ("p50_us", "p99_us", "cpu_us_per_request")]
        rate = _spread([run["requests_per_s"] for run in runs])
        lines.append(f"| {scenario} | {connections} | {batches} | {rate} | {_spread(ratios)} | {' | '.join(shown)} |")
    lines += [
        "",
        f"`call`, tuned to {result['target_ms']} ms, 64 connections, from its start:",
        "",
        "| second | requests/s | p99 us |",
        "|---|---|---|",
    ]
    for second, figures in enumerate(result["convergence"], 1):
        lines.append(f"| {second} | {figures['requests_per_s']:,.0f} | {figures['p99_us']:,.0f} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    digits = 2 if max(values) < 100 else 0
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f}..{max(values):,.{digits}f})"


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser("bench.batching", description="Measure what batches are worth.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of each load [default: %(default)s]")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args(words)
    if min(arguments.rounds, arguments.seconds) < 1:
        parser.error("--rounds and --seconds are numbers from 1 up")
    try:
        wrk.find()
        result = measure(arguments.rounds, arguments.seconds)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(render(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
