"""What is measured by itself: the operations that a request is made of, each a function that does it n times.

    python -m bench.micro.operations [NAME ...]     each once for a warm-up, then counted between callgrind's marks

`pytest bench/micro --benchmark-enable` times them (test_operations_bench.py); bench.guard counts their instructions.
"""

import asyncio
import ctypes
import functools
import io
import itertools
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from bench.errors import BenchError
from bench.toolchain import compiled
from headrace import _batch, loaders
from headrace._codec import RowBuffer, encode_csv, json_into, npy_into, view_npy, view_raw
from headrace._frontend import INFERENCE, Frontend
from headrace._memory import create_board, create_segment, largest_slot
from headrace._worker import Port
from headrace.frontend import render_error

HERE = Path(__file__).parent
EXT = HERE.parents[1] / "ext"
MODELS = HERE.parent / "models"
COUNTED = 100  # times that an operation is done between two marks
MIB = 1 << 20

Operation = Callable[[int], None]

_namespaces = itertools.count(1)
_UNANSWERED = RuntimeError("not answered")

SMALL = """\
POST /models/mlp/invoke HTTP/1.1
Host: 127.0.0.1:8080
Content-Type: application/json
Content-Length: 2616
"""
BROWSER = """\
POST /models/mlp/invoke HTTP/1.1
Host: models.example.com
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0
Accept: application/json, text/plain;q=0.9, */*;q=0.8
Accept-Language: en,de;q=0.7
Accept-Encoding: gzip, deflate, br, zstd
Content-Type: application/json; charset=utf-8
Content-Length: 2616
Origin: https://app.example.com
Referer: https://app.example.com/models?page=2
Connection: keep-alive
Cookie: session=0123456789abcdef0123456789abcdef; theme=dark
Sec-Fetch-Dest: empty
Sec-Fetch-Mode: cors
Sec-Fetch-Site: cross-site
Priority: u=4
Pragma: no-cache
Cache-Control: no-cache
"""


def library() -> ctypes.CDLL:
    """The operations in C. BenchError without a compiler."""
    return ctypes.CDLL(str(compiled(HERE / "operations.c", "-shared", "-fPIC", "-pthread", f"-I{EXT}")))


def native(name: str, *arguments: Any) -> Operation:
    function = getattr(library(), name)

    def run(n: int) -> None:
        if status := function(*arguments, ctypes.c_uint64(n)):
            raise BenchError(f"{name} failed with {status}")

    return run


def text(name: str, data: bytes) -> Operation:
    return native(name, data, ctypes.c_size_t(len(data)))


def head(lines: str) -> bytes:
    return f"{lines}\n".replace("\n", "\r\n").encode()


def looped(call: Callable[[], object]) -> Operation:
    def run(n: int) -> None:
        for _ in range(n):
            call()

    return run


def numbers(*shape: int) -> Any:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def json_decode() -> Operation:
    body = json.dumps({"instances": numbers(1, 256).tolist()}).encode()
    rows = RowBuffer("float32", MIB)

    def decode() -> None:
        rows.reset()
        rows.append_json(body)

    return looped(decode)


def csv_decode() -> Operation:
    body = "\n".join(",".join(map(str, row)) for row in numbers(16, 16).tolist()).encode()
    rows = RowBuffer("float32", MIB)

    def decode() -> None:
        rows.reset()
        rows.append_csv(body)

    return looped(decode)


def json_encode() -> Operation:
    array, out = numbers(1, 256), bytearray(MIB)
    return looped(lambda: json_into(array, out))


def csv_encode() -> Operation:
    array = numbers(16, 16)
    return looped(lambda: encode_csv(array))


def npy(array: Any) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def npy_view() -> Operation:
    body = npy(numbers(1, 3, 224, 224))
    return looped(lambda: view_npy(body))


def npy_encode() -> Operation:
    array, out = numbers(1, 256), bytearray(MIB)
    return looped(lambda: npy_into(array, out))


def npy_gather() -> Operation:
    """32 rows of as many bodies into one array, as when a batch does not lie at one stride."""
    bodies = [npy(numbers(1, 256)) for _ in range(32)]
    rows = RowBuffer("float32", MIB)

    def gather() -> None:
        rows.reset()
        for body in bodies:
            rows.append_npy(body)

    return looped(gather)


def raw_view() -> Operation:
    body = numbers(1, 3, 224, 224).tobytes()
    return looped(lambda: view_raw(body, "float32", (3, 224, 224)))


def batch_adjacent() -> Operation:
    """32 arrays at one stride, as neighbours in the arena are: one view on all of them."""
    stride = 256 + 80
    place = np.zeros(32 * stride, np.float32)
    rows = [place[i * stride : i * stride + 256].reshape(1, 256) for i in range(32)]
    return looped(lambda: _batch.runs(rows))


class Loopback:
    """A frontend and a worker's port in this process and thread, and one client."""

    def __init__(self, model: str) -> None:
        limits = {
            "max_request": MIB,
            "max_response": MIB,
            "max_connections": 10,
            "queue_total": 1000,
            "min_rate": 0,
            "retries": 1,
            "spin_us": 0,
            "header_timeout_ms": 60_000,
            "body_timeout_ms": 60_000,
            "idle_timeout_ms": 60_000,
            "write_timeout_ms": 60_000,
        }
        self.loop = uvloop.new_event_loop()
        largest = largest_slot(MIB, MIB)
        board, segment, bell = create_board(), create_segment(0, 64 * MIB, largest), os.eventfd(0, os.EFD_NONBLOCK)
        self.frontend = Frontend(
            self.loop,
            *(board, segment, bell, 64 * MIB, largest, limits),
            render_error,
            lambda *asked: None,
            _unexpected,
            _unexpected,
        )
        self.loop.add_reader(bell, self.frontend.wake)
        self.port = Port(board, 0, _unexpected, MIB, 0)
        self.port.attach(0, segment, bell)
        options = loaders.Options(name=model)
        self.port.serve(1, loaders.load(MODELS / model, None, options, next(_namespaces)))
        self.frontend.worker_up(0)
        self.frontend.set_route(model, 1, [0], 100, 60_000, True)
        ours, theirs = socket.socketpair()
        self.client = ours
        ours.setblocking(False)
        self.loop.run_until_complete(self._connect(theirs))

    async def _connect(self, sock: socket.socket) -> None:
        await self.loop.create_connection(lambda: self.frontend.protocol(INFERENCE), sock=sock)

    def ask(self, request: bytes, n: int) -> bytes:
        """The last of n answers, one after another."""
        return self.loop.run_until_complete(self._ask(request, n))

    async def _ask(self, request: bytes, n: int) -> bytes:
        """By way of parser, arena, ring, batch, model, ring and socket; the loop turns in between."""
        answer = b""
        for _ in range(n):
            self.client.sendall(request)
            while self.frontend.unanswered() == 0:
                await asyncio.sleep(0)
            batch = self.port.next_batch()
            assert batch is not None
            servable, requests = batch
            servable.run(requests)
            self.port.settle(requests, _UNANSWERED)
            while not (answer := self._received()):
                await asyncio.sleep(0)
        return answer

    def refused(self, request: bytes, n: int) -> bytes:
        """The last of n answers that the frontend gives by itself."""
        return self.loop.run_until_complete(self._refused(request, n))

    async def _refused(self, request: bytes, n: int) -> bytes:
        answer = b""
        for _ in range(n):
            self.client.sendall(request)
            while not (answer := self._received()):
                await asyncio.sleep(0)
        return answer

    def _received(self) -> bytes:
        try:
            return self.client.recv(MIB)
        except BlockingIOError:
            return b""


@functools.cache
def loopback(model: str) -> Loopback:
    """One for each model, to the end of the process."""
    return Loopback(model)


def _unexpected(*what: object) -> Any:
    raise BenchError(f"this should not have happened: {what}")


def refusal() -> Operation:
    """A request whose model has as many under way as it may: 503 from its head alone, the body thrown away."""
    request = head("POST /models/full/invoke HTTP/1.1\nHost: t\nContent-Length: 64\n") + b"x" * 64
    way = loopback("echo")
    way.frontend.set_route("full", 2, [], 0, 60_000, False)

    def run(n: int) -> None:
        answer = way.refused(request, n)
        if not answer.startswith(b"HTTP/1.1 503 "):
            raise BenchError(f"it was not refused: {answer[:200]!r}")

    return run


def path(model: str, content_type: str, body: bytes) -> Operation:
    lines = (
        f"POST /models/{model}/invoke HTTP/1.1\nHost: t\nContent-Type: {content_type}\nContent-Length: {len(body)}\n"
    )
    request = head(lines) + body
    way = loopback(model)
    answer = way.ask(request, 1)
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise BenchError(f"{model} answered {answer[:200]!r}")

    def run(n: int) -> None:
        way.ask(request, n)

    return run


#: By name. Each call makes what the operation needs, so that only what it does is measured.
OPERATIONS: Mapping[str, Callable[[], Operation]] = {
    "parse_head": lambda: text("parse_head", head(SMALL)),
    "parse_head of a browser": lambda: text("parse_head", head(BROWSER)),
    "split_path": lambda: text("split_path", b"/models/mlp/invoke"),
    "slot_lease": lambda: native("slot_lease", ctypes.c_uint64(3000), ctypes.c_uint64(100)),
    "ring_pass": lambda: native("ring_pass"),
    "json_decode 256 float32": json_decode,
    "json_encode 256 float32": json_encode,
    "csv_decode 16x16 float32": csv_decode,
    "csv_encode 16x16 float32": csv_encode,
    "npy_view": npy_view,
    "npy_encode 256 float32": npy_encode,
    "raw_view": raw_view,
    "batch of 32": batch_adjacent,
    "gather of 32 npy": npy_gather,
    "request, echo 64 bytes": lambda: path("echo", "application/json", b'{"text": "' + b"x" * 52 + b'"}'),
    "request, refused for a full queue": refusal,
    "request, mlp 256 numbers": lambda: path(
        "mlp", "application/json", json.dumps({"instances": numbers(1, 256).tolist()}).encode()
    ),
}
#: What takes two threads, and so tells nothing by its instructions.
ROUNDS: Mapping[str, Callable[[], Operation]] = {
    "ring_round, awake": lambda: native("ring_round", ctypes.c_int(0)),
    "ring_round, asleep": lambda: native("ring_round", ctypes.c_int(1)),
}


def main(names: list[str]) -> None:
    marks = library()
    for name in names or OPERATIONS:
        operation = OPERATIONS[name]()
        operation(COUNTED)
        marks.count_begin()
        operation(COUNTED)
        marks.count_end(name.encode())


if __name__ == "__main__":
    main(sys.argv[1:])
