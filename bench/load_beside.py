"""How much other models feel of a load: latencies while one is done, whatever it does, beside those of a quiet server.

    python -m bench.load_beside [--rate 500] [--seconds 4]

One worker serves a small model at a constant rate; meanwhile another one is loaded by POST /models and unloaded again,
without a pause. What its load does:

    python   a loop of Python for two seconds
    import   modules whose sources, 5 MB together, are compiled
    pickle   100 MB of small objects, unpickled
    gc       full collections over two million objects

`same core`: the worker that serves and whatever loads have one CPU, and frontend and generator the others; `any core`:
nothing is pinned. `in place`: with HEADRACE_EXTRA_WORKERS=0 all are loaded by the worker that serves. Latencies count
from when a request was planned. The generator shares the machine's CPUs with the server.
"""

import argparse
import math
import os
import pickle
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench import store
from bench.errors import BenchError
from bench.servers import HOST, Server
from headrace import loadgen

ECHO = """
from headrace import Model


class Echo(Model):
    def handle(self, requests):
        return [bytes(request.body) for request in requests]
"""
LOADER = """
import gc
import pickle
import time
from headrace import Model


class Loader(Model):
    def load(self, directory):
{load}

    def handle(self, requests):
        return [b"" for _ in requests]
"""
MODULES = 10
MODULE_BYTES = 500_000
PICKLE_BYTES = 100_000_000
LOADS = {
    "python": "until = time.monotonic() + 2\nwhile time.monotonic() < until:\n    sum(i * i for i in range(1000))",
    "import": "\n".join(f"import big{i}" for i in range(MODULES)),
    "pickle": "self.x = pickle.loads((directory / 'objects.pickle').read_bytes())",
    "gc": "self.x = [[i] for i in range(2_000_000)]\nfor _ in range(10):\n    gc.collect()",
}
CASES = (  # HEADRACE_PIN, HEADRACE_EXTRA_WORKERS
    ("aside", "same core", str(max(os.sched_getaffinity(0))), 8),
    ("aside", "any core", "off", 8),
    ("in place", "any core", "off", 0),
)
BODY = b"x" * 100


def main() -> int:
    return store.run("load_beside", __doc__, {"rate": 500, "seconds": 4}, measure)


def measure(place: Path, options: argparse.Namespace) -> dict[str, object]:
    write(place)
    rows = []
    for way, cores, pin, extra in CASES:
        with server(place, pin, extra).running() as running:
            for number, load in enumerate(LOADS):
                quiet = ask(running.port, options.rate, options.seconds)
                with loading(running.port, place, number, options.seconds) as took_s:
                    beside = ask(running.port, options.rate, options.seconds)
                ratio = beside["p99_ms"] / quiet["p99_ms"]
                rows.append(
                    {
                        "cores": cores,
                        "way": way,
                        "load": load,
                        "loads": len(took_s),
                        "load_s": round(max(took_s), 2),
                        "p99_ratio": round(ratio, 2),
                        "quiet": quiet,
                        "beside": beside,
                    }
                )
                print(rows[-1], file=sys.stderr)
    return {"rate": options.rate, "seconds": options.seconds, "rows": rows}


def write(place: Path) -> None:
    """The models `echo` and m0, m1, ..., one for each of LOADS."""
    (place / "echo").mkdir(parents=True)
    (place / "echo" / "model.py").write_text(ECHO)
    for number, (name, statements) in enumerate(LOADS.items()):
        directory = place / f"m{number}"
        directory.mkdir()
        indented = "\n".join(f"        {line}" for line in statements.splitlines())
        (directory / "model.py").write_text(LOADER.format(load=indented))
        if name == "pickle":
            objects = [(i, str(i), [i]) for i in range(PICKLE_BYTES // 30)]
            (directory / "objects.pickle").write_bytes(pickle.dumps(objects))
        elif name == "import":
            lines = "".join(
                f"def f{i}(x):\n    return [x + {i}, {{'a': x * {i}}}]\n" for i in range(MODULE_BYTES // 50)
            )
            for i in range(MODULES):
                (directory / f"big{i}.py").write_text(lines)


def server(place: Path, pin: str, extra_workers: int) -> Server:
    """With `echo` on its one worker; both APIs are on one port."""
    words = [sys.executable, "-m", "headrace", "serve", "--model-store", str(place), "--models", "echo"]
    variables = {
        "HEADRACE_WORKERS": "1",
        "HEADRACE_PIN": pin,
        "HEADRACE_EXTRA_WORKERS": str(extra_workers),
        "HEADRACE_LOG_LEVEL": "WARNING",
        "PYTHONDONTWRITEBYTECODE": "1",  # each import compiles anew
    }
    return Server(
        "headrace-beside", lambda port, _: [*words, "--port", str(port), "--management-port", str(port)], variables
    )


def ask(port: int, rate: int, seconds: int) -> Mapping[str, float]:
    """Latencies of `echo` in ms. BenchError for any answer but the right one."""
    request = loadgen.Request(
        "/models/echo/invoke", BODY, headers={"Content-Type": "application/octet-stream"}, expected=BODY
    )
    report = loadgen.run(loadgen.Plan(f"http://{HOST}:{port}", [request], rate=rate, duration_s=seconds, grace_s=60))
    if report.failures:
        raise BenchError(f"{report.failures} requests failed: {dict(report.failed)}")
    figures = {f"p{percent:g}_ms": report.percentile_ms(percent) for percent in (50, 99, 99.9, 100)}
    return {name: round(value, 3) if math.isfinite(value) else value for name, value in figures.items()}


@contextmanager
def loading(port: int, place: Path, number: int, seconds: int) -> Iterator[list[float]]:
    """Loads and unloads m*number* for so long; gives the seconds that each load took. Raises what went wrong."""
    took_s: list[float] = []
    errors: list[BenchError] = []
    until_s = time.monotonic() + seconds

    def go_on() -> None:
        client = store.Client(port, place)
        try:
            while time.monotonic() < until_s:
                began_s = time.monotonic()
                client.load(number)
                took_s.append(time.monotonic() - began_s)
                client.unload(number)
        except BenchError as error:
            errors.append(error)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield took_s
    finally:
        thread.join()
    if errors:
        raise errors[0]


if __name__ == "__main__":
    sys.exit(main())
