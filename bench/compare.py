"""Headrace, its rivals and the yardsticks at the same work: what each can do at most.

    python -m bench.compare [--rounds 5] [--seconds 2] [--servers NAME,...] [--points echo:64,...] [--slice SECONDS]

A round starts each server afresh, one after the other, and takes it through all points: a scenario and a number of
connections, in a closed loop, after an answer was checked and the server warmed up. The order of servers moves on by
one each round. What is done is added to the result file at once and not done again, so a campaign may be cut into
slices (--slice ends one after so many seconds) and go on later; another --output, or --fresh, begins a new one. A
server that is not here or does not come up stands in the result with the reason.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import environment, procfs, servers, wrk
from bench.errors import BenchError
from bench.peers.catalogue import PEERS
from bench.peers.install import version
from bench.report import Run
from bench.scenarios import Scenario, all_scenarios
from bench.servers import Running, Server

RESULT = Path(__file__).parent / "results" / "peers.json"
POINTS = (("echo", 1), ("echo", 64), ("mlp", 1), ("mlp", 64), ("tensor", 1), ("tensor", 16))
NAMES = (*servers.SERVERS, *PEERS)
WARM_UP_CONNECTIONS = 16

Point = tuple[str, int]


def main(words: Sequence[str]) -> int:
    """Status 1: it could not be run, or requests failed."""
    arguments = _parse(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server under way is ended too
    try:
        wrk.find()
        result = _begin(arguments)
        _go_on(result, arguments)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    failed = [run for run in result["runs"] if any(run["errors"].values())]
    for run in failed:
        print(f"bench: {run['server']} {run['scenario']} c={run['connections']}: {run['errors']}", file=sys.stderr)
    return 1 if failed else 0


def due(runs: Sequence[Run], names: Sequence[str], rounds: int) -> list[tuple[int, str]]:
    """What is still to be done, as (round, server), in its order: round by round, each beginning one server later."""
    done = {(run["round"], run["server"]) for run in runs}
    order = []
    for index in range(rounds):
        turn = index % len(names)
        order += [(index + 1, name) for name in (*names[turn:], *names[:turn])]
    return [job for job in order if job not in done]


def _begin(arguments: argparse.Namespace) -> dict[str, Any]:
    """The result so far. BenchError when it was measured otherwise: figures of two kinds are no series."""
    settings = {
        "seconds": arguments.seconds,
        "points": [list(point) for point in arguments.points],
        "peers": {name: {"version": version(peer), "settings": peer.settings} for name, peer in PEERS.items()},
    }
    if arguments.output.exists() and not arguments.fresh:
        result: dict[str, Any] = json.loads(arguments.output.read_text())
        if result["settings"] != settings:
            raise BenchError(f"{arguments.output} was measured with other settings: --fresh begins anew")
        return result
    described = environment.describe(["python", "-m", "bench.compare", *sys.argv[1:]])
    return {"bench": "compare", "environment": described, "settings": settings, "absent": {}, "runs": []}


def _go_on(result: dict[str, Any], arguments: argparse.Namespace) -> None:
    scenarios = all_scenarios()
    ends = time.monotonic() + arguments.slice if arguments.slice else None
    longest = 0.0
    for index, name in due(result["runs"], arguments.servers, arguments.rounds):
        began = time.monotonic()
        if ends is not None and began + longest > ends:
            return
        reason = PEERS[name].absent() if name in PEERS else ""
        if not reason:
            try:
                runs = measure(name, [(scenarios[point[0]], point[1]) for point in arguments.points], arguments.seconds)
                result["runs"] += [{"round": index} | run for run in runs]
                result["absent"].pop(name, None)
            except BenchError as error:
                reason = str(error)[:300]
        if reason and not any(run["server"] == name for run in result["runs"]):
            result["absent"][name] = reason
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
        longest = max(longest, time.monotonic() - began)
        print(f"round {index} {name}: {reason or f'{time.monotonic() - began:.0f} s'}", file=sys.stderr, flush=True)


def measure(name: str, points: Sequence[tuple[Scenario, int]], seconds: int) -> list[Run]:
    """One fresh server at each point in turn. CPU time and memory are of its whole tree."""
    refused = PEERS[name].refuses if name in PEERS else {}
    points = [point for point in points if point[0].model not in refused]
    models = list(dict.fromkeys(scenario.model for scenario, _ in points))
    server = _server(name, models)
    warm_up = PEERS[name].warm_up_s if name in PEERS else 1
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as scratch, server.running() as running:
        body, last = Path(scratch, "body"), None
        for scenario, connections in points:
            if scenario is not last:
                last = scenario
                body.write_bytes(server.ask(scenario).body)
                running.await_right(scenario)
                running.check(scenario)
                _load(running, scenario, body, WARM_UP_CONNECTIONS, warm_up)
            before = procfs.tree(running.pid)
            load = _load(running, scenario, body, connections, seconds)
            after = procfs.tree(running.pid)
            if not load.requests:
                raise BenchError(f"{name}, {scenario.name}: no request of wrk's was answered: {load.errors}")
            cpu_us = sum(stat.cpu_us for stat in after.values()) - sum(stat.cpu_us for stat in before.values())
            runs.append(
                {
                    "server": name,
                    "scenario": scenario.name,
                    "connections": connections,
                    "requests_per_s": load.requests * 1e6 / load.duration_us,
                    "p50_us": load.p50_us,
                    "p99_us": load.p99_us,
                    "p999_us": load.p999_us,
                    "errors": load.errors,
                    "cpu_us_per_request": cpu_us / load.requests,
                    "pss_bytes": procfs.pss_bytes(running.pid),
                    "start_ms": running.start_ms,
                }
            )
        for scenario in {scenario.name: scenario for scenario, _ in points}.values():
            running.check(scenario)
    return runs


def _server(name: str, models: Sequence[str]) -> Server:
    if name in PEERS:
        return PEERS[name].server(models)
    return servers.headrace(models=models) if name == "headrace" else servers.SERVERS[name]()


def _load(running: Running, scenario: Scenario, body: Path, connections: int, seconds: int) -> wrk.Load:
    return wrk.run(running.url(scenario), body, running.server.ask(scenario).headers, connections, seconds)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    def chosen(known: Sequence[str]) -> Callable[[str], list[str]]:
        def names(text: str) -> list[str]:
            if unknown := [name for name in text.split(",") if name not in known]:
                raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; there are {', '.join(known)}")
            return text.split(",")

        return names

    def points(text: str) -> list[Point]:
        found = []
        for part in text.split(","):
            scenario, _, connections = part.partition(":")
            if scenario not in all_scenarios() or not connections.isdigit() or not int(connections):
                raise argparse.ArgumentTypeError(
                    f"{part!r} is not SCENARIO:CONNECTIONS, of {', '.join(all_scenarios())}"
                )
            found.append((scenario, int(connections)))
        return found

    def count(text: str) -> int:
        if not text.isdigit() or not int(text):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 up")
        return int(text)

    parser = argparse.ArgumentParser("bench.compare", description="Compare Headrace with other servers.")
    parser.add_argument("--rounds", type=count, default=5, help="in all, with earlier slices [default: %(default)s]")
    parser.add_argument("--seconds", type=count, default=2, help="of each point [default: %(default)s]")
    parser.add_argument("--servers", type=chosen(NAMES), default=list(NAMES), help=f"of {','.join(NAMES)}")
    parser.add_argument("--points", type=points, default=list(POINTS), help="SCENARIO:CONNECTIONS,...")
    parser.add_argument("--slice", type=count, help="seconds after which no further server is begun")
    parser.add_argument("--fresh", action="store_true", help="forget what the result file has")
    parser.add_argument("--output", type=Path, default=RESULT, help="[default: %(default)s]")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
