"""What Headrace adds to a request: against an HTTP server that does nothing, and against bare sockets.

    python -m bench.overhead [--rounds 5] [--seconds 4] [--servers headrace,bare,floor] [--output RESULT.json]

For each round, scenario and number of connections each server in turn is started afresh, checked, warmed up, loaded
and checked again; then each once more, to be looked at at rest. The order of the servers moves on by one each round.
CPU time is that of the server's whole tree, from just before wrk starts to just after it ends. HEADRACE_* variables are
passed on, and noted in the result: HEADRACE_SPIN=100us python -m bench.overhead.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import environment, procfs, report, servers, wrk
from bench.errors import BenchError
from bench.scenarios import Scenario, all_scenarios
from bench.servers import Running, Server

RESULT = Path(__file__).parent / "results" / "overhead.json"
SETTLE_S = 1.0  # from the end of a load to the look at rest
REST_S = 3.0


def main(words: list[str]) -> int:
    """Run it, write the result and print its page. Status 1: it could not be run, or requests failed."""
    arguments = _parse(words)
    try:
        result = measure(arguments)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(report.render(result))
    print(f"bench: wrote {arguments.output}", file=sys.stderr)
    failed = [row for row in result["summary"] if row["errors"]]
    for row in failed:
        print(
            f"bench: {row['errors']} errors: {row['server']} {row['scenario']} c={row['connections']}", file=sys.stderr
        )
    return 1 if failed else 0


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole result, for JSON."""
    wrk.find()
    measured = [servers.SERVERS[name]() for name in arguments.servers]
    measured += [servers.headrace(name, python) for name, python in arguments.also]
    scenarios = [scenario for name, scenario in all_scenarios().items() if name in arguments.scenarios]
    _raise_file_limit(arguments.idle_connections)
    settings = {
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "warm_up_seconds": arguments.warm_up,
        "yardsticks": [server.name for server in measured if server.is_yardstick],
        "servers": {
            server.name: {"command": server.command(0, 0), "environment": {**servers.ENVIRONMENT, **server.environment}}
            for server in measured
        },
    }
    described = environment.describe(["python", "-m", "bench.overhead", *sys.argv[1:]])
    runs: list[report.Run] = []
    with tempfile.TemporaryDirectory() as scratch:
        bodies = {scenario.name: Path(scratch, scenario.name) for scenario in scenarios}
        for scenario in scenarios:
            bodies[scenario.name].write_bytes(scenario.body)
        for index in range(arguments.rounds):
            turn = index % len(measured)
            order = measured[turn:] + measured[:turn]
            for scenario in scenarios:
                for connections in arguments.connections:
                    for server in order:
                        runs.append({"round": index + 1} | _load(server, scenario, connections, bodies, arguments))
                        _say(runs[-1])
            for server in order:
                runs.append({"round": index + 1} | _rest(server, scenarios[0], bodies, arguments))
                _say(runs[-1])
    return {
        "bench": "overhead",
        "environment": described,
        "settings": settings,
        "summary": report.summarize(runs, settings["yardsticks"]),
        "runs": runs,
    }


def _load(
    server: Server, scenario: Scenario, connections: int, bodies: dict[str, Path], arguments: argparse.Namespace
) -> report.Run:
    """One fresh server under one load."""
    with server.running() as running:
        running.check(scenario)
        _wrk(running, scenario, bodies, connections, arguments.warm_up)
        before, began = procfs.tree(running.pid), time.monotonic()
        load = _wrk(running, scenario, bodies, connections, arguments.seconds)
        after, seconds = procfs.tree(running.pid), time.monotonic() - began
        pss_bytes = procfs.pss_bytes(running.pid)
        titles = {pid: procfs.title(pid) for pid in after}
        running.check(scenario)
    if not load.requests:
        raise BenchError(f"{server.name}, {scenario.name}: no request of wrk's was answered: {load.errors}")
    return {
        "server": server.name,
        "scenario": scenario.name,
        "connections": connections,
        "requests": load.requests,
        "requests_per_s": load.requests * 1e6 / load.duration_us,
        "p50_us": load.p50_us,
        "p99_us": load.p99_us,
        "p999_us": load.p999_us,
        "max_us": load.max_us,
        "response_bytes": load.bytes,
        "errors": load.errors,
        "cpu_us_per_request": _cpu_us(before, after) / load.requests,
        "cpu_percent": {
            f"{titles[pid]} [{pid}]": round((stat.cpu_us - before[pid].cpu_us) / seconds / 1e4, 1)
            for pid, stat in after.items()
            if pid in before
        },
        "pss_bytes": pss_bytes,
        "start_ms": running.start_ms,
    }


def _rest(server: Server, scenario: Scenario, bodies: dict[str, Path], arguments: argparse.Namespace) -> report.Run:
    """One fresh server after a load: what it does when nobody asks, and what a connection that does nothing costs."""
    count = arguments.idle_connections
    with server.running() as running, ExitStack() as opened:
        _wrk(running, scenario, bodies, max(arguments.connections), arguments.warm_up)
        time.sleep(SETTLE_S)
        before, began = procfs.tree(running.pid), time.monotonic()
        time.sleep(REST_S)
        after, seconds = procfs.tree(running.pid), time.monotonic() - began
        pss_bytes = procfs.pss_bytes(running.pid)
        for _ in range(count):
            connection = running.connect()
            opened.callback(connection.close)
            running.ask(connection, scenario)
        grown_bytes = procfs.pss_bytes(running.pid) - pss_bytes
        running.check(scenario)
    return {
        "server": server.name,
        "scenario": report.IDLE,
        "connections": count,
        "errors": {},
        "idle_cpu_percent": _cpu_us(before, after) / seconds / 1e4,
        "pss_bytes": pss_bytes,
        "bytes_per_connection": grown_bytes / count,
        "start_ms": running.start_ms,
    }


def _wrk(running: Running, scenario: Scenario, bodies: dict[str, Path], connections: int, seconds: int) -> wrk.Load:
    return wrk.run(
        running.url(scenario), bodies[scenario.name], running.server.ask(scenario).headers, connections, seconds
    )


def _cpu_us(before: dict[int, procfs.Stat], after: dict[int, procfs.Stat]) -> float:
    """Of the tree, in between. A child that ended counts with its parent, which has waited for it."""
    return sum(stat.cpu_us for stat in after.values()) - sum(stat.cpu_us for stat in before.values())


def _say(run: report.Run) -> None:
    figures = " ".join(f"{metric}={run[metric]:,.1f}" for metric in report.METRICS if metric in run)
    print(f"round {run['round']} {run['scenario']} c={run['connections']} {run['server']}: {figures}", file=sys.stderr)


def _raise_file_limit(connections: int) -> None:
    """Room for so many connections, here and in the servers, which inherit the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 200
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise BenchError(f"{connections} idle connections need {wanted} open files, the hard limit is {hard}")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _parse(words: list[str]) -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.split(",")

    def counts(text: str) -> list[int]:
        return [count(part) for part in text.split(",")]

    def count(text: str) -> int:
        if (number := int(text)) < 1:
            raise ValueError
        return number

    def pair(text: str) -> tuple[str, str]:
        name, equals, python = text.partition("=")
        if not equals:
            raise ValueError
        return name, python

    parser = argparse.ArgumentParser("bench.overhead", description="Measure what Headrace adds to a request.")
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--seconds", type=count, default=4, help="of each load [default: %(default)s]")
    parser.add_argument("--warm-up", type=count, default=1, help="seconds of load before that [default: %(default)s]")
    parser.add_argument("--servers", type=names, default=list(servers.SERVERS), help=",".join(servers.SERVERS))
    parser.add_argument("--scenarios", type=names, default=["echo", "mlp", "tensor"], help="echo,mlp,tensor")
    parser.add_argument("--connections", type=counts, default=[1, 16, 64], help="1,16,64")
    parser.add_argument("--idle-connections", type=count, default=2000)
    parser.add_argument(
        "--also",
        type=pair,
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help="another build of Headrace, installed where this interpreter finds it, to be measured in between",
    )
    parser.add_argument("--output", type=Path, default=RESULT, help="[default: %(default)s]")
    arguments = parser.parse_args(words)
    for chosen, known in ((arguments.servers, list(servers.SERVERS)), (arguments.scenarios, ["echo", "mlp", "tensor"])):
        if unknown := [name for name in chosen if name not in known]:
            parser.error(f"unknown {', '.join(unknown)}; there are {', '.join(known)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
