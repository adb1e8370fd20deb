"""Thousands of trickling clients beside a normal one: `python -m bench.slow_clients`.

A normal client asks in an open loop, in turns without and with the tricklers, which are a process of their own: heads,
bodies and chunks that come a byte at a time, and connections that only stay. One that is turned away comes back.
"""

import argparse
import multiprocessing
import resource
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench import environment, promise, report, servers
from bench.errors import BenchError
from bench.servers import HERE, HOST
from headrace.loadgen import Plan, Request, run

RESULT = HERE / "results" / "slow_clients.json"
MOST = 2.0  # times the quiet p99
CONNECTIONS = 16  # of the normal client
WARM_UP_S = 0.5
PATH = "/models/echo/invoke"
BODY = b'{"instances": [[1, 2, 3, 4]]}'
REQUEST = Request(PATH, BODY, expected=BODY)
HEAD = b"POST %s HTTP/1.1\r\nHost: bench\r\n" % PATH.encode()
# What each kind sends at once, and what it goes on with, byte by byte, without an end.
KINDS = {
    "head": (b"", HEAD + b"X-Slow: " + b"a" * 1000),
    "body": (HEAD + b"Content-Length: 1000\r\n\r\n", b"b" * 1000),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nc\r\n" * 1000),
    "idle": (b"", b""),
}
SLICES = 50  # of a second: each connection sends a byte a second, and not all at the same moment


def trickle(port: int, count: int, standing: Any, came_back: Any) -> None:
    """Keep *count* connections open, for ever. standing: set once all are; came_back: how often one was turned away."""
    kinds = list(KINDS.values())
    sockets = [_begin(port, kinds[number % len(kinds)][0]) for number in range(count)]
    sent = [0] * count
    standing.set()
    turn, due_s = 0, time.monotonic()
    while True:
        for number in range(turn % SLICES, count, SLICES):
            first, rest = kinds[number % len(kinds)]
            if _is_over(sockets[number], rest[sent[number] : sent[number] + 1]):
                sockets[number].close()
                sockets[number], sent[number] = _begin(port, first), 0
                came_back.value += 1
            else:
                sent[number] += 1
        turn += 1
        due_s += 1 / SLICES
        time.sleep(max(0.0, due_s - time.monotonic()))


def _begin(port: int, first: bytes) -> socket.socket:
    sock = socket.create_connection((HOST, port))
    sock.sendall(first)
    sock.setblocking(False)
    return sock


def _is_over(sock: socket.socket, data: bytes) -> bool:
    try:
        sock.send(data)
        sock.recv(4096)  # an answer, for there is nothing to be answered but an error; or the end
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


def measure(count: int, rounds: int, seconds: float, per_s: float) -> dict[str, Any]:
    _allow_descriptors(count + 100)
    described = environment.describe(["python", "-m", "bench.slow_clients", *sys.argv[1:]])
    runs = []
    with servers.headrace().running() as running:
        for index in range(rounds):
            for is_slow in (False, True) if index % 2 == 0 else (True, False):
                with _tricklers(running.port, count if is_slow else 0) as came_back:
                    figures = _ask(running.port, per_s, seconds, index)
                    returns = came_back.value
                runs.append(
                    {"round": index + 1, "slow_clients": count if is_slow else 0, "turned_away": returns} | figures
                )
                print(runs[-1], file=sys.stderr)
    return {"bench": "slow_clients", "environment": described, "seconds": seconds, "per_s": per_s, "runs": runs}


def _ask(port: int, per_s: float, seconds: float, seed: int) -> dict[str, Any]:
    """The normal client's figures."""
    plan = Plan(
        f"http://{HOST}:{port}",
        [REQUEST],
        CONNECTIONS,
        rate=per_s,
        arrivals="poisson",
        duration_s=seconds,
        warm_up_s=WARM_UP_S,
        seed=seed,
    )
    outcome = run(plan)
    named = {"p50": 50, "p99": 99, "p999": 99.9, "p100": 100}
    return {
        "good": outcome.good,
        "failed": dict(outcome.failed),
        "latency_ms": {name: outcome.percentile_ms(percent) for name, percent in named.items()},
    }


@contextmanager
def _tricklers(port: int, count: int) -> Iterator[Any]:
    context = multiprocessing.get_context("spawn")
    standing, came_back = context.Event(), context.Value("q", 0)
    process = context.Process(target=trickle, args=(port, count, standing, came_back), daemon=True)
    if count:
        process.start()
        if not standing.wait(60):
            raise BenchError(f"{count} connections could not be opened")
        time.sleep(1.0)
    try:
        yield came_back
    finally:
        if count:
            process.terminate()
            process.join()
            time.sleep(1.0)  # their connections end


def judge(runs: list[dict[str, Any]]) -> list[str]:
    """What is not as promised: a p99 within twice the quiet one (medians over rounds), and every answer right."""
    found = [
        f"round {each['round']}, {each['slow_clients']} slow clients: {each['failed']}"
        for each in runs
        if any(each["failed"].values())
    ]
    if found:
        return found
    quiet, slow = (
        statistics.median(each["latency_ms"]["p99"] for each in runs if bool(each["slow_clients"]) == is_slow)
        for is_slow in (False, True)
    )
    if slow > MOST * quiet:
        found.append(f"p99 was {quiet:.2f} ms without slow clients and {slow:.2f} ms beside them")
    return found


def render(result: dict[str, Any]) -> str:
    """Medians and the spread over rounds, as Markdown."""
    heads = ["slow clients", "turned away", "p50 ms", "p99 ms", "p99.9 ms"]
    lines = []
    for count in sorted({each["slow_clients"] for each in result["runs"]}):
        runs = [each for each in result["runs"] if each["slow_clients"] == count]
        figures = [[each["latency_ms"][name] for each in runs] for name in ("p50", "p99", "p999")]
        turned_away = report.shown(report.spread([each["turned_away"] for each in runs]))
        lines.append([f"{count:,}", turned_away, *(report.shown(report.spread(each), digits=2) for each in figures)])
    return report.table(heads, lines)


def _allow_descriptors(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count:
        raise BenchError(f"{count} descriptors are needed, and the hard limit is {hard}; raise it or open fewer")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser("bench.slow_clients", description="A normal client beside thousands that trickle.")
    parser.add_argument("--count", type=int, default=2000, help="slow clients [default: %(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="[default: %(default)s]")
    parser.add_argument("--seconds", type=float, default=12, help="of each load [default: %(default)s]")
    parser.add_argument("--per-s", type=float, default=200, help="requests of the normal client [default: %(default)s]")
    promise.add_flags(parser, RESULT)
    arguments = parser.parse_args(words)
    return promise.keep(
        arguments, lambda: measure(arguments.count, arguments.rounds, arguments.seconds, arguments.per_s), judge, render
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
