"""The control channel: messages and file descriptors between the supervisor and its children. Never request bytes.

A frame on an AF_UNIX stream socket is a uint32 (little-endian) length and a JSON object of that many bytes with an
"op". Descriptors ride along by SCM_RIGHTS with the first byte of their frame. The kernel may hand them out together
with bytes of earlier frames, so the frame says under "fds" how many of those that came, in order, are its own.

    {"op": X, "id": n, ...}                a call, answered once by
    {"op": "reply", "id": n, ...}          success, or, with "ok": false, an error in the form of errors.to_message()

Invariants
1. Neither side trusts a length: a frame beyond MESSAGE_BYTES_MAX, one that is no JSON object with an "op", descriptors
   that no frame announced or a count that does not match end the channel with ChannelError.
2. Descriptors come close-on-exec. Those that receive() or serve() hand out are the caller's to close; all others (of
   replies, of messages never taken, of a channel that broke) are closed here.
3. send() keeps nothing of the caller's: its descriptors may be closed as soon as it returns.
"""

import array
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

Message = dict[str, Any]
Received = tuple[Message, list[int]]

MESSAGE_BYTES_MAX = 4 << 20
DESCRIPTORS_MAX = 64  # in one frame, and received ahead of theirs; the kernel carries 253
READ_BYTES = 64 << 10

_LENGTH = struct.Struct("<I")
_READ_FLAGS = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_ANCILLARY_BYTES = socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize)


class ChannelError(ConnectionError):
    """The peer sent what is no frame of ours, or does not read what we send: the channel is unusable."""


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a new channel, close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def close_descriptors(fds: Iterable[int]) -> None:
    """Close descriptors that came with a message and are not wanted."""
    for fd in fds:
        os.close(fd)


def encode(message: Message, descriptors: int = 0) -> bytes:
    """The frame of *message*, which *descriptors* fds will accompany. Raises ValueError beyond a limit."""
    if "fds" in message:
        raise ValueError(f"control message {message.get('op')!r}: the key fds is the channel's own")
    if descriptors > DESCRIPTORS_MAX:
        raise ValueError(f"message with {descriptors} descriptors; at most {DESCRIPTORS_MAX} can go with one")
    body = orjson.dumps({**message, "fds": descriptors} if descriptors else message)
    if len(body) > MESSAGE_BYTES_MAX:
        op = message.get("op")
        raise ValueError(f"control message {op!r} of {len(body)} bytes; the limit is {MESSAGE_BYTES_MAX}")
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Bytes and descriptors in, messages out. No I/O."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fds: deque[int] = deque()

    @property
    def is_between_frames(self) -> bool:
        return not self._buffer

    def feed(self, data: bytes, fds: Iterable[int]) -> None:
        self._buffer += data
        self._fds.extend(fds)
        if len(self._fds) > DESCRIPTORS_MAX:
            raise ChannelError(
                f"peer sent {len(self._fds)} descriptors without a frame; the limit is {DESCRIPTORS_MAX}"
            )

    def next(self) -> Received | None:
        """The next whole message, or None. Raises ChannelError."""
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > MESSAGE_BYTES_MAX:
            raise ChannelError(f"peer announced a control message of {length} bytes; the limit is {MESSAGE_BYTES_MAX}")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        try:
            message = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ChannelError(f"peer sent a control message that is not JSON ({error}): {body[:80]!r}") from None
        if not isinstance(message, dict) or not isinstance(message.get("op"), str):
            raise ChannelError(f'peer sent a control message without an "op": {body[:80]!r}')
        count = message.pop("fds", 0)
        if type(count) is not int or not 0 <= count <= len(self._fds):
            raise ChannelError(f"control message {message['op']!r} wants {count!r} descriptors; {len(self._fds)} came")
        return message, [self._fds.popleft() for _ in range(count)]

    def close(self) -> None:
        close_descriptors(self._fds)
        self._fds.clear()
        self._buffer.clear()


def read(sock: socket.socket, decoder: Decoder) -> bool:
    """One read that never waits. False: nothing there. Raises EOFError when the peer is gone, ChannelError."""
    try:
        data, ancillary, flags, _ = sock.recvmsg(READ_BYTES, _ANCILLARY_BYTES, _READ_FLAGS)
    except (BlockingIOError, InterruptedError):
        return False
    except OSError as error:
        raise EOFError(f"control channel broke: {error.strerror}") from None
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    decoder.feed(data, fds)
    if flags & socket.MSG_CTRUNC:
        raise ChannelError(
            f"descriptors were lost: a message had over {DESCRIPTORS_MAX}, or this process may open no more (ulimit -n)"
        )
    if not data:
        where = "between two messages" if decoder.is_between_frames else "in the middle of a message"
        raise EOFError(f"control channel was closed {where}")
    return True


def write(sock: socket.socket, data: memoryview, fds: Sequence[int], flags: int = 0) -> int:
    """Bytes of *data* sent by one sendmsg(); *fds* went along when there was one."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    return sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL | flags)


class Channel:
    """The blocking end, for workers and the template. One thread at a time.

    *sock* is a connected socket or its descriptor, which the channel then owns.
    """

    def __init__(self, sock: socket.socket | int) -> None:
        self._sock = socket.socket(fileno=sock) if isinstance(sock, int) else sock
        self._sock.setblocking(True)
        self._decoder = Decoder()

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send, waiting while the socket is full. Raises ConnectionError when the peer is gone, ValueError."""
        left = memoryview(encode(message, len(fds)))
        while left:
            left = left[write(self._sock, left, fds) :]
            fds = ()

    def reply(self, message: Message, **fields: Any) -> None:
        """Answer the call *message*."""
        self.send({"op": "reply", "id": message.get("id"), "ok": True, **fields})

    def receive(self, timeout: float | None = None) -> Received | None:
        """The next message and its descriptors. None: nothing came for *timeout* seconds (0: just look; None: wait).

        Raises EOFError when the peer is gone, ChannelError when what it sends is no message.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while (received := self._decoder.next()) is None:
            if read(self._sock, self._decoder):
                continue
            left_ms = None if until is None else max(0.0, (until - time.monotonic()) * 1000)
            if left_ms == 0 or not self._is_readable(left_ms):
                return None
        return received

    def _is_readable(self, timeout_ms: float | None) -> bool:
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        return bool(poller.poll(timeout_ms))

    def close(self) -> None:
        self._decoder.close()
        self._sock.close()
