"""A frontend's data path in this process, and a worker's end that publishes whatever a test tells it to.

The frontend runs in a thread of its own, on a real loop and real sockets; the test is its clients, its supervisor and
its workers.
"""

import asyncio
import contextlib
import json
import mmap
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvloop
from wire import (
    COMPLETE_HEAD,
    COMPLETE_TAIL,
    COMPLETION,
    COMPLETIONS,
    DONE,
    MARKS_OFFSET,
    MEDIA_JSON,
    PAIR_BYTES,
    RING_ENTRIES,
    RINGS_OFFSET,
    SUBMISSION,
    SUBMISSIONS,
    SUBMIT_HEAD,
    SUBMIT_TAIL,
    Submission,
)

from headrace._frontend import INFERENCE, Frontend
from headrace._memory import create_board, create_segment, largest_slot

WATCHDOG_S = 30.0
MIB = 1 << 20


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + WATCHDOG_S
    while not (value := condition()):
        assert time.monotonic() < end, f"watchdog: {what}"
        time.sleep(0.002)
    return value


class Peer:
    """A worker's end of the rings. It believes nothing and is believed nothing."""

    def __init__(self, rig: "Rig", index: int) -> None:
        self.rig, self.pair = rig, RINGS_OFFSET + index * PAIR_BYTES

    def word(self, at: int) -> int:
        return int(struct.unpack_from("<Q", self.rig.memory, self.pair + at)[0])

    def set_word(self, at: int, value: int) -> None:
        struct.pack_into("<Q", self.rig.memory, self.pair + at, value & (1 << 64) - 1)

    def waiting(self) -> int:
        return self.word(SUBMIT_TAIL) - self.word(SUBMIT_HEAD)

    def take(self) -> Submission:
        wait_until(self.waiting, "no submission")
        head = self.word(SUBMIT_HEAD)
        at = self.pair + SUBMISSIONS + head % RING_ENTRIES * 64
        entry = Submission(*SUBMISSION.unpack_from(self.rig.memory, at))
        self.set_word(SUBMIT_HEAD, head + 1)
        return entry

    def body(self, entry: Submission) -> bytes:
        return self.rig.memory[entry.start : entry.start + entry.body_length]

    def write(self, entry: Submission, offset: int, data: bytes) -> None:
        self.rig.memory[entry.start + offset : entry.start + offset + len(data)] = data

    def publish(self, entry: Submission, *, wake: bool = True, **changes: int) -> None:
        """A DONE with status 200 and no body for `entry`, with these fields changed."""
        fields = {
            "request_id": entry.request_id,
            "started_ns": 0,
            "finished_ns": time.monotonic_ns(),
            "slot": entry.slot,
            "generation": entry.generation,
            "offset": 0,
            "fields_length": 0,
            "body_offset": 0,
            "body_length": 0,
            "status": 200,
            "op": DONE,
            "flags": 0,
            "kind": MEDIA_JSON,
            "batch_rows": 1,
            "waited_us": 0,
            "copied_bytes": 0,
        } | changes
        tail = self.word(COMPLETE_TAIL)
        COMPLETION.pack_into(self.rig.memory, self.pair + COMPLETIONS + tail % RING_ENTRIES * 64, *fields.values())
        self.set_word(COMPLETE_TAIL, tail + 1)
        if wake:
            self.rig.ring()

    def answer(self, entry: Submission, body: bytes, **changes: int) -> None:
        self.write(entry, entry.room, body)
        self.publish(entry, body_offset=entry.room, body_length=len(body), **changes)

    def echo(self, entry: Submission) -> None:
        self.publish(entry, body_length=entry.body_length)

    def taken(self) -> bool:
        """Whether the frontend has taken all that was published."""
        return self.word(COMPLETE_TAIL) == self.word(COMPLETE_HEAD)

    def mark_begun(self, entry: Submission) -> None:
        struct.pack_into("<Q", self.rig.memory, MARKS_OFFSET + 16 * entry.slot + 8, entry.request_id)

    def is_cancelled(self, entry: Submission) -> bool:
        return struct.unpack_from("<Q", self.rig.memory, MARKS_OFFSET + 16 * entry.slot)[0] == entry.request_id


class Client:
    """A connection, and its answers one after another."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.buffer = sock, b""

    def post(self, body: bytes, *lines: str) -> "Client":
        head = ["POST /models/m/invoke HTTP/1.1", "host: t", f"content-length: {len(body)}", *lines]
        self.sock.sendall("\r\n".join([*head, "", ""]).encode() + body)
        return self

    def send(self, raw: bytes) -> "Client":
        self.sock.sendall(raw)
        return self

    def fill(self) -> bool:
        try:
            data = self.sock.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        self.buffer += data
        return bool(data)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        while b"\r\n\r\n" not in self.buffer:
            assert self.fill(), f"the connection ended after {self.buffer!r}"
        top, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", first)
        assert match, first
        fields = dict(line.lower().split(": ", 1) for line in lines)
        length = int(fields.get("content-length", 0))
        while len(self.buffer) < length:
            assert self.fill(), "the connection ended within a body"
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return int(match[1]), fields, body

    def reset(self) -> None:
        """Goes away for good: an end of sending alone would be a half close, whose answer is still wanted."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def ends(self) -> bool:
        """Whether nothing more comes, to the end of the connection."""
        while self.fill():
            pass
        return self.buffer == b""


class Rig:
    def __init__(self, workers: int = 1, arena_bytes: int = 8 * MIB, **limits: int) -> None:
        self.limits = {
            "max_request": MIB,
            "max_response": MIB,
            "max_connections": 1000,
            "queue_total": 1000,
            "min_rate": 0,
            "retries": 1,
            "header_timeout_ms": 20_000,
            "body_timeout_ms": 20_000,
            "idle_timeout_ms": 20_000,
            "write_timeout_ms": 20_000,
            "spin_us": 0,
        } | limits
        self.is_drained = False  # a test has had it take no more requests
        self.suspects: list[int] = []
        self.woken: list[int] = []  # models that had requests and no worker
        self.errors: list[dict[str, Any]] = []
        self.sockets: list[socket.socket] = []
        largest = largest_slot(self.limits["max_request"], self.limits["max_response"])
        self.board_fd = create_board()
        self.segment_fd = create_segment(0, arena_bytes, largest)
        self.eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.memory = mmap.mmap(self.segment_fd, 0)
        self.loop = uvloop.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

        async def begin() -> int:
            self.path = Frontend(
                self.loop,
                self.board_fd,
                self.segment_fd,
                self.eventfd,
                arena_bytes,
                largest,
                self.limits,
                lambda status, text: json.dumps({"code": status, "message": text}).encode(),
                lambda *asked: None,
                self.suspects.append,
                self.woken.append,
            )
            self.loop.add_reader(self.eventfd, self.path.wake)
            self.server = await self.loop.create_server(lambda: self.path.protocol(INFERENCE), "127.0.0.1", 0)
            for worker in range(workers):
                self.path.worker_up(worker)
            self.sweep()
            return int(self.server.sockets[0].getsockname()[1])

        self.port = asyncio.run_coroutine_threadsafe(begin(), self.loop).result(WATCHDOG_S)
        self.peers = [Peer(self, index) for index in range(workers)]
        self.route()

    def sweep(self) -> None:
        self.path.sweep()
        self.timer = self.loop.call_later(0.02, self.sweep)

    def ring(self) -> None:
        os.eventfd_write(self.eventfd, 1)

    def call(self, what: Callable[..., Any], *arguments: Any) -> Any:
        """Calls it in the loop's thread."""

        async def run() -> Any:
            return what(*arguments)

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(WATCHDOG_S)

    def route(self, most: int = 100, timeout_ms: int = 20_000) -> None:
        self.call(self.path.set_route, "m", 1, range(len(self.peers)), most, timeout_ms, True)

    def stats(self) -> dict[str, Any]:
        return dict(self.call(self.path.stats))

    def replace(self, worker: int) -> None:
        """What the supervisor does about a worker that is dead: down, reaped, and a successor."""
        self.call(self.path.worker_down, worker)
        self.call(self.path.worker_up, worker)

    def connect(self) -> Client:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=WATCHDOG_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sockets.append(sock)
        return Client(sock)

    def check(self) -> None:
        """It still serves rightly, all slots are free, and nothing was raised into the loop."""
        if not self.is_drained:
            client = self.connect().post(b'{"still": "here"}')
            peer = self.peers[0]
            peer.echo(peer.take())
            assert client.answer()[::2] == (200, b'{"still": "here"}')
        wait_until(lambda: self.stats()["slots_leased"] == 0, f"slots stay leased: {self.stats()}")
        assert self.stats()["incomplete_bytes"] == 0
        assert self.errors == []

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()

        async def end() -> None:
            self.timer.cancel()
            self.server.close()
            self.loop.remove_reader(self.eventfd)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(WATCHDOG_S)
        wait_until(lambda: not self.call(lambda: len(self.path.connections)), "connections stay open")
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(WATCHDOG_S)
        self.loop.close()
        self.memory.close()
        for fd in (self.board_fd, self.segment_fd, self.eventfd):
            os.close(fd)


@contextlib.contextmanager
def rigged(**arguments: int) -> Iterator[Rig]:
    rig = Rig(**arguments)
    try:
        yield rig
        rig.check()
    finally:
        rig.close()
