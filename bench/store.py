"""A store of many small models, and a server that loads them by API: what the memory scenarios measure.

Each model is a network of 256x256 float32 weights, 267 KB; all share one file on the disk, none a byte of memory. It
answers with its own number, so that every answer can be checked.
"""

import argparse
import http.client
import json
import os
import re
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import environment
from bench.errors import BenchError
from bench.servers import HOST, Server

WIDTH = 256
WEIGHTS_BYTES = 4 * (WIDTH * WIDTH + 5 * WIDTH)
CLIENTS = 4
BODY = json.dumps({"instances": [[0.0] * WIDTH]}).encode()
SOURCE = """
import numpy as np
from headrace import Model


class Mlp(Model):
    shape = (256,)

    def load(self, directory):
        with np.load(directory / "weights.npz") as file:
            self.w, self.rest = file["w"], file["rest"]
        self.number = float((directory / "number").read_text())

    def predict(self, x):
        return np.maximum(x @ self.w, 0).sum(axis=1, keepdims=True) + self.number
"""


def write(store: Path, count: int) -> None:
    """Models m0 to m(count - 1) below *store*."""
    rng = np.random.default_rng(7)
    store.mkdir(parents=True, exist_ok=True)
    weights = store / "weights.npz"
    w = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32)
    np.savez(weights, w=w, rest=np.zeros((5, WIDTH), np.float32))
    for i in range(count):
        directory = store / f"m{i}"
        directory.mkdir(exist_ok=True)
        (directory / "model.py").write_text(SOURCE)
        (directory / "number").write_text(str(i))
        link = directory / "weights.npz"
        if not link.exists():
            os.link(weights, link)


def server(
    store: Path,
    budget_bytes: int | None,
    workers: int,
    imports: str = "numpy",
    before: Sequence[str] = (),
) -> Server:
    """Headrace as a multi-model endpoint that evicts, with that budget (None: as by default).

    imports: modules of the template; before: words that run the command, such as a control group's.
    """
    words = [*before, sys.executable, "-m", "headrace", "serve", "--workers", str(workers), "--eviction", "lru"]
    if budget_bytes is not None:
        words += ["--memory-budget", str(budget_bytes)]
    variables = {
        "SAGEMAKER_MULTI_MODEL": "true",
        "HEADRACE_LOG_LEVEL": "WARNING",
        "HEADRACE_TEMPLATE_IMPORTS": imports,
    }
    return Server("headrace-store", lambda port, _: [*words, "--port", str(port)], variables)


class Client:
    """A connection that is kept."""

    def __init__(self, port: int, store: Path) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=60)
        self._store = store

    def load(self, i: int) -> None:
        self.register(f"m{i}")

    def register(self, name: str) -> None:
        """The model in the store's folder of that name."""
        body = json.dumps({"model_name": name, "url": str(self._store / name)}).encode()
        self._expect("POST", "/models", body)

    def scale(self, name: str, replicas: int) -> None:
        self._expect("PUT", f"/models/{name}?min_worker={replicas}&synchronous=true", None)

    def ask(self, name: str) -> Any:
        """The model's answer to a body of one byte."""
        return json.loads(self._expect("POST", f"/models/{name}/invoke", b"?", "application/octet-stream"))

    def unload(self, i: int) -> None:
        self._expect("DELETE", f"/models/m{i}", None)

    def invoke(self, i: int) -> None:
        answer = json.loads(self._expect("POST", f"/models/m{i}/invoke", BODY))
        if answer != {"predictions": [[float(i)]]}:
            raise BenchError(f"model m{i} answered {answer}")

    def metrics(self) -> dict[str, float]:
        text = self._expect("GET", "/metrics", None).decode()
        return {name: float(value) for name, value in re.findall(r"^(\S+) (\S+)$", text, re.MULTILINE)}

    def _expect(self, method: str, target: str, body: bytes | None, kind: str = "application/json") -> bytes:
        headers = {"Content-Type": kind} if body else {}
        self._connection.request(method, target, body, headers)
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise BenchError(f"{method} {target} answered {response.status}: {answer[:300]!r}")
        return answer


def in_parallel(act: Callable[[Client, int], None], port: int, store: Path, numbers: Iterable[int]) -> None:
    """act(client, number) for all, in their order, by CLIENTS clients. Raises the first error of each kind."""
    lock = threading.Lock()
    errors: list[Exception] = []
    feed: Iterator[int] = iter(numbers)

    def work() -> None:
        client = Client(port, store)
        while not errors:
            with lock:
                number = next(feed, None)
            if number is None:
                return
            try:
                act(client, number)
            except (BenchError, OSError, http.client.HTTPException) as error:
                errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise BenchError(str(errors[0]))


def run(
    name: str,
    doc: str | None,
    options: Mapping[str, int],
    measure: Callable[[Path, argparse.Namespace], dict[str, Any]],
) -> int:
    """The scenario bench.NAME as a command: measure(an empty folder, options) and its figures to the result file.

    options: names and defaults. Returns the exit status.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in options.items():
        parser.add_argument(f"--{option.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--output", type=Path, default=Path("bench/results") / f"{name}.json")
    arguments = parser.parse_args()
    command = ["python", "-m", f"bench.{name}", *sys.argv[1:]]
    before = environment.describe(command)  # the load average without this run's
    try:
        with tempfile.TemporaryDirectory(prefix="headrace-bench-") as place:
            figures = measure(Path(place), arguments)
    except BenchError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"environment": before, "figures": figures}, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    return 0


def spread(rounds: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The least, the median and the greatest of each figure."""
    return {
        name: {"least": min(values), "median": statistics.median(values), "greatest": max(values)}
        for name in rounds[0]
        for values in [[each[name] for each in rounds]]
    }
