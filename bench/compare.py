"""Headrace, its rivals and the yardsticks at the same work: what each can do, how long one waits, what it costs.

    python -m bench.compare [--rounds 5] [--seconds 2] [--servers NAME,...] [--points echo:64,...] [--slice SECONDS]

What the points are is told in bench/points.py. A round takes all servers in turn through each setup: a server is
started afresh, its answers are checked, it is warmed up, measured at the setup's points, and checked again. The order
of servers moves on by one each round. What is done is added to the result file at once and not done again, so a
campaign may be cut into slices (--slice: no server is begun that would not be done after so many seconds) and into
calls with other points or rounds; another --output, or --fresh, begins a new one. A server that is not here, cannot do
something or does not come up stands in the result with the reason.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import environment, measures, points, servers, wrk
from bench.errors import BenchError
from bench.peers.catalogue import PEERS
from bench.peers.install import version
from bench.points import Point
from bench.report import Run
from bench.servers import Server, Setup

RESULT = Path(__file__).parent / "results" / "peers.json"
POINTS = (
    *("echo:1", "echo:64", "echo:64@50%", "echo:64@80%", "mlp:1", "mlp:64", "mlp:64@50%", "mlp:64@80%"),
    *("tensor:1", "tensor:16", "tensor:16@80%", "batch:64", "mixed:16"),
    *("1kb:16", "64kb:16", "1mb:16", "large:2"),
    *("tls:64", "many:64", "crash:16", "cold:10", "memory:1", "memory:10", "memory:50"),
)
NAMES = (*servers.SERVERS, *PEERS)
UNKNOWN_S = 45.0  # what a server is thought to take at a setup that it was never measured at

Job = tuple[int, str, list[Point]]  # round, server, points of one setup


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


def due(result: Mapping[str, Any], names: Sequence[str], wanted: Sequence[Point], rounds: int) -> list[Job]:
    """What is still to be done, in its order: round by round, setup by setup, each round beginning one server later.
    What failed in a round is not tried again in it."""
    tried = [*result["runs"], *result["failed"]]
    done = {(each["round"], each["server"], each["scenario"], each["connections"]) for each in tried}
    jobs = []
    for index in range(1, rounds + 1):
        turn = (index - 1) % len(names)
        for group in points.by_setup(wanted).values():
            for name in (*names[turn:], *names[:turn]):
                left = [point for point in group if not points.refusal(name, point)]
                left = [point for point in left if (index, name, point.name, point.number) not in done]
                if left:
                    jobs.append((index, name, left))
    return jobs


def expected_s(result: Mapping[str, Any], name: str, job: Sequence[Point]) -> float:
    """From earlier rounds at the same setup."""
    took = [each["took_s"] for each in result["took"] if (each["server"], each["setup"]) == (name, job[0].setup)]
    return max(took, default=UNKNOWN_S)


def _begin(arguments: argparse.Namespace) -> dict[str, Any]:
    """The result so far. BenchError when it was measured otherwise: figures of two kinds are no series."""
    settings = {
        "seconds": arguments.seconds,
        "peers": {name: {"version": version(peer), "settings": peer.settings} for name, peer in PEERS.items()},
    }
    if arguments.output.exists() and not arguments.fresh:
        result: dict[str, Any] = json.loads(arguments.output.read_text())
        if result["settings"] != settings:
            raise BenchError(f"{arguments.output} was measured with other settings: --fresh begins anew")
        result["points"] = list(dict.fromkeys([*result["points"], *map(str, arguments.points)]))
    else:
        described = environment.describe(["python", "-m", "bench.compare", *sys.argv[1:]])
        result = {"bench": "compare", "environment": described, "settings": settings}
        result |= {"points": list(map(str, arguments.points)), "absent": {}, "failed": [], "took": [], "runs": []}
    if arguments.retry:
        result["failed"] = []
    return result


def _go_on(result: dict[str, Any], arguments: argparse.Namespace) -> None:
    began = time.monotonic()
    for index, name, job in due(result, arguments.servers, arguments.points, arguments.rounds):
        if reason := PEERS[name].absent() if name in PEERS else "":
            result["absent"][name] = reason
            continue
        if arguments.slice and time.monotonic() - began + expected_s(result, name, job) > arguments.slice:
            continue  # a shorter one may still be done
        result["absent"].pop(name, None)
        started = time.monotonic()
        left = list(job)
        try:
            before = [run for run in result["runs"] if (run["round"], run["server"]) == (index, name)]
            for run in measure(name, job, arguments.seconds, before):
                result["runs"].append({"round": index} | run)
                left.pop(0)
        except BenchError as error:  # at the first of those that are left; the others are tried again
            reason = str(error).partition("\n")[0][:300]  # the rest is of the server's log
            failed = {"round": index, "server": name, "scenario": left[0].name, "connections": left[0].number}
            result["failed"].append(failed | {"reason": reason})
        took_s = round(time.monotonic() - started, 1)
        result["took"].append({"server": name, "setup": job[0].setup, "took_s": took_s})
        write(result, arguments.output)
        done_at = ", ".join(map(str, job))
        print(f"round {index} {name} {done_at}: {reason or f'{took_s:.0f} s'}", file=sys.stderr, flush=True)


def write(result: Mapping[str, Any], path: Path) -> None:
    """A line for each member of a list, since there are many and all are alike. Whole, whenever this is cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = []
    for name, value in result.items():
        if isinstance(value, list) and value:
            lines = ",\n  ".join(json.dumps(each) for each in value)
            parts.append(f"{json.dumps(name)}: [\n  {lines}\n ]")
        else:
            parts.append(f"{json.dumps(name)}: " + json.dumps(value, indent=1).replace("\n", "\n "))
    beside = path.with_suffix(".part")
    beside.write_text("{\n " + ",\n ".join(parts) + "\n}\n")
    os.replace(beside, path)


def measure(name: str, job: Sequence[Point], seconds: int, before: Sequence[Run]) -> Iterator[Run]:
    """One fresh server at points of one setup. before: its runs of the same round."""
    warm_up_s = PEERS[name].warm_up_s if name in PEERS else 1
    return measures.measure(_server(name, points.setup_for(job)), job, seconds, warm_up_s, before)


def _server(name: str, setup: Setup) -> Server:
    if name in PEERS:
        return PEERS[name].server(setup)
    return servers.headrace(setup=setup) if name == "headrace" else servers.SERVERS[name]()


def _parse(words: Sequence[str]) -> argparse.Namespace:
    def chosen(known: Sequence[str]) -> Callable[[str], list[str]]:
        def names(text: str) -> list[str]:
            if unknown := [name for name in text.split(",") if name not in known]:
                raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; there are {', '.join(known)}")
            return text.split(",")

        return names

    def some_points(text: str) -> list[Point]:
        try:
            found = [points.parse(part) for part in text.split(",")]
            points.check(found)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return found

    def count(text: str) -> int:
        if not text.isdigit() or not int(text):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 up")
        return int(text)

    parser = argparse.ArgumentParser("bench.compare", description="Compare Headrace with other servers.")
    parser.add_argument("--rounds", type=count, default=5, help="in all, with earlier slices [default: %(default)s]")
    parser.add_argument("--seconds", type=count, default=2, help="of each point [default: %(default)s]")
    parser.add_argument("--servers", type=chosen(NAMES), default=",".join(NAMES), help=f"of {','.join(NAMES)}")
    parser.add_argument("--points", type=some_points, default=",".join(POINTS), help="as in bench/points.py")
    parser.add_argument("--slice", type=count, help="begin none that would not be done after so many seconds")
    parser.add_argument("--fresh", action="store_true", help="forget what the result file has")
    parser.add_argument("--retry", action="store_true", help="try again what failed")
    parser.add_argument("--output", type=Path, default=RESULT, help="[default: %(default)s]")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
