"""Clients of a soak: requests of many shapes over raw sockets, each answer compared byte by byte with what is due.

A client goes round: it draws a shape, asks, checks. What can go wrong has three names. *Wrong*: an answer that is not
the request's own. *Lost*: a connection that ended without the answer. *Refused*: a status other than 200 for a
well-formed request.
"""

import itertools
import random
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

ANSWER_S = 60.0
SIZES = (0, 1, 7, 64, 1000, 4096, 4097, 65_536, 300_000, 1_000_000)
HUGE = (5_000_000, 20_000_000)
HUGE_SHARE = 0.005
PIPELINE = 8
SHAPES = ("plain", "chunked", "pipelined", "one shot")  # and "vanishing", which gets no answer


class Lost(Exception):
    """The connection ended, or nothing came, before the answer was whole."""


@dataclass
class Tally:
    """What all clients saw. counts: answers by kind of request; failures: the first of each kind, in words."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_ms: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, took_s: float = 0.0) -> None:
        with self.lock:
            self.counts[kind] += 1
            self.slowest_ms = max(self.slowest_ms, took_s * 1e3)

    def fail(self, kind: str, why: str) -> None:
        with self.lock:
            self.counts[kind] += 1
            if len(self.failures) < 50:
                self.failures.append(f"{kind}: {why}")


class Connection:
    """One keep-alive connection. Reads answers that have a Content-Length, as all of ours have."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""

    def send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise Lost(f"while sending: {error}") from None

    def answer(self) -> tuple[int, bytes, bool]:
        """Status, body, and whether the connection goes on. Raises Lost."""
        while (end := self.rest.find(b"\r\n\r\n")) < 0:
            self.rest += self._read()
        head = self.rest[:end].lower()
        parts = [self.rest[end + 4 :]]
        missing = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]) - len(parts[0])
        while missing > 0:
            parts.append(self._read())
            missing -= len(parts[-1])
        body = b"".join(parts)
        self.rest = body[len(body) + missing :] if missing < 0 else b""
        whole = body[: len(body) + missing] if missing < 0 else body
        return int(head[9:12]), whole, b"\r\nconnection: close" not in head

    def reset(self) -> None:
        """Vanish: the peer gets an RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _read(self) -> bytes:
        try:
            piece = self.socket.recv(1 << 20)
        except OSError as error:
            raise Lost(f"while waiting for an answer: {error}") from None
        if not piece:
            raise Lost("the connection ended before the answer")
        return piece


def client(port: int, model: str, number: int, seed: int, tally: Tally, is_over: threading.Event) -> None:
    """Ask *model*, an echo, until *is_over*."""
    dice = random.Random(f"{seed} {number}")
    noise = dice.randbytes(1 << 20)
    target = f"/models/{model}/invoke".encode()
    connection: Connection | None = None
    count = 0
    while not is_over.is_set():
        count += 1
        shape = dice.choice(("plain", "plain", *SHAPES, "vanishing"))
        try:
            connection = connection or Connection(port)
            bodies = [_body(dice, noise, number, count, i) for i in range(PIPELINE if shape == "pipelined" else 1)]
            if shape == "vanishing":
                whole = _request(target, bodies[0], "plain")
                connection.send(whole[: dice.randrange(len(whole))])
                connection.reset()
                connection = None
                tally.add("vanished")
                continue
            began = time.monotonic()
            connection.send(b"".join(_request(target, body, shape) for body in bodies))
            goes_on = True
            for body in bodies:
                status, answer, goes_on = connection.answer()
                if status != 200:
                    tally.fail("refused", f"{shape} of {len(body)} bytes: {status} {answer[:200]!r}")
                elif answer != body:
                    tally.fail("wrong", f"{shape} of {len(body)} bytes: {len(answer)} other bytes")
                else:
                    tally.add(shape, time.monotonic() - began)
            if not goes_on:
                connection.socket.close()
                connection = None
        except (Lost, OSError) as error:
            tally.fail("lost", f"{shape}: {error}")
            connection = None
    if connection is not None:
        connection.socket.close()


def _body(dice: random.Random, noise: bytes, number: int, count: int, index: int) -> bytes:
    """Bytes that no other request has, from 0 bytes to 20 MB; several that are sent at once are small."""
    size = dice.choice(HUGE) if not index and dice.random() < HUGE_SHARE else dice.choice(SIZES[: 6 if index else None])
    mark = b"%d/%d/%d " % (number, count, index)
    start = dice.randrange(len(noise) - 4096)
    return (mark + noise[start:] + noise * (size // len(noise) + 1))[:size]


def _request(target: bytes, body: bytes, shape: str) -> bytes:
    head = b"POST " + target + b" HTTP/1.1\r\nHost: soak\r\nContent-Type: application/octet-stream\r\n"
    if shape == "chunked":
        cuts = [0, len(body) // 3, len(body) // 2, len(body)]
        pieces = [body[a:b] for a, b in itertools.pairwise(cuts) if a < b]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    if shape == "one shot":
        head += b"Connection: close\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
