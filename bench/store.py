"""A store of many small models, and a server that loads them by API: what the memory scenarios measure.

Each model is a network of 256x256 float32 weights, 267 KB; all share one file on the disk, none a byte of memory. It
answers with its own number, so that every answer can be checked.
"""

import http.client
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

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


def server(store: Path, budget_bytes: int | None, workers: int, imports: str = "numpy") -> Server:
    """Headrace as a multi-model endpoint that evicts, with that budget (None: as by default).

    imports: modules of the template.
    """
    words = [sys.executable, "-m", "headrace", "serve", "--workers", str(workers), "--eviction", "lru"]
    if budget_bytes is not None:
        words += ["--memory-budget", str(budget_bytes)]
    environment = {
        "SAGEMAKER_MULTI_MODEL": "true",
        "HEADRACE_LOG_LEVEL": "WARNING",
        "HEADRACE_TEMPLATE_IMPORTS": imports,
    }
    return Server("headrace-store", lambda port, _: [*words, "--port", str(port)], environment)


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


def save(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document["figures"], indent=1))
