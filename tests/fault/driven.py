"""A frontend's data path without a loop: the test calls what a loop would, one step after another."""

import mmap
import os
import socket
from collections.abc import Callable
from typing import Any

from rig import MIB, Peer

from headrace._frontend import INFERENCE, Frontend
from headrace._memory import create_board, create_segment, largest_slot

Call = Callable[..., Any]  # (what, its arguments ...) calls it


def plainly(what: Callable[..., Any], *arguments: Any) -> Any:
    return what(*arguments)


class Loop:
    """As much of an event loop as the data path asks for."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.due.append(callback)


class Transport:
    """A transport over a real socket, and the client at the other end."""

    def __init__(self, path: Frontend) -> None:
        self.ours, self.client = socket.socketpair()
        self.client.settimeout(10)
        self.is_closed = False
        self.protocol: Any = path.protocol(INFERENCE)

    def get_extra_info(self, name: str) -> Any:
        return self.ours if name == "socket" else None

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.is_closed = True

    pause_reading = resume_reading = abort = close

    def feed(self, data: bytes, call: Call = plainly) -> None:
        """What a loop does with bytes that have come."""
        while data:
            buffer = memoryview(call(self.protocol.get_buffer, -1))
            piece, data = data[: len(buffer)], data[len(buffer) :]
            buffer[: len(piece)] = piece
            buffer.release()
            call(self.protocol.buffer_updated, len(piece))

    def received(self) -> bytes:
        self.ours.close()
        data = b""
        while piece := self.client.recv(1 << 20):
            data += piece
        self.client.close()
        return data


class Driven:
    """A data path, driven step by step."""

    def __init__(self, **changes: int) -> None:
        largest = largest_slot(MIB, MIB)
        self.fds = [create_board(), create_segment(0, 8 * MIB, largest), os.eventfd(0, os.EFD_NONBLOCK)]
        self.memory = mmap.mmap(self.fds[1], 0)
        self.loop = Loop()
        names = ["max_request", "max_response", "max_connections", "queue_total", "min_rate", "retries", "spin_us"]
        names += [f"{what}_timeout_ms" for what in ("header", "body", "idle", "write")]
        limits = dict.fromkeys(names, 10_000) | {"max_request": MIB, "max_response": MIB, "spin_us": 0} | changes
        self.path = Frontend(
            self.loop,  # type: ignore[arg-type]
            *self.fds,
            8 * MIB,
            largest,
            limits,
            lambda status, text: b'{"code": %d}' % status,
            lambda *asked: None,
            lambda worker: None,
            lambda model: None,
        )
        self.path.worker_up(0)
        self.path.set_route("m", 1, [0], 100, 10_000, True)
        self.peer = Peer(self, 0)  # type: ignore[arg-type]

    def ring(self) -> None:
        os.eventfd_write(self.fds[2], 1)

    def close(self) -> None:
        self.memory.close()
        for fd in self.fds:
            os.close(fd)


def post(body: bytes, path: str = "/models/m/invoke") -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: t\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def bodies(raw: bytes) -> list[tuple[int, bytes]]:
    """(status, body) of answers one after another, of which the last may be cut off."""
    found = []
    while b"\r\n\r\n" in raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        status = int(head[9:12])
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(raw) < length:
            break
        found.append((status, raw[:length]))
        raw = raw[length:]
    return found
