"""The end of the control channel that lives in an event loop, for supervisor and frontends. Frames: see control.py."""

import asyncio
import inspect
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from headrace import errors
from headrace.control import ChannelError, Decoder, Message, Received, close_descriptors, encode, read, write

SEND_BYTES_MAX = 64 << 20  # a peer that stops reading while more than this waits for it has broken the channel
INBOX_MAX = 1024  # messages that nobody took yet; then we stop reading


class AsyncChannel:
    """The end that lives in an event loop (asyncio's or uvloop's), for the supervisor and frontends.

    To be made inside the loop; *sock* is a connected socket or its descriptor, which the channel then owns. Reading
    begins at once: replies reach their call() whether or not anybody receives. receive() and serve() are for one task.
    *on_sent* is called whenever a whole message has gone out, for a peer that does not sleep on its socket.
    """

    def __init__(self, sock: socket.socket | int, on_sent: Callable[[], None] | None = None) -> None:
        self._sock = socket.socket(fileno=sock) if isinstance(sock, int) else sock
        self._sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._on_sent = on_sent
        self._decoder = Decoder()
        self._inbox: deque[Received] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._calls: dict[int, asyncio.Future[Message]] = {}
        self._last_id = 0
        self._outbox: deque[tuple[memoryview, list[int]]] = deque()
        self._outbox_bytes = 0
        self._end: Exception | None = None  # why nothing more will come
        self._is_reading = False
        self._read_on()

    @property
    def is_open(self) -> bool:
        return self._end is None

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send now or as soon as the peer reads; never waits. Raises ConnectionError when it is gone, ValueError."""
        data = memoryview(encode(message, len(fds)))
        if self._end is not None:
            raise ConnectionError(f"control message {message.get('op')!r} not sent: {self._end}")
        if not self._outbox:
            try:
                sent = write(self._sock, data, fds)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:  # the end; the reader, which may still find last words, will come to it by itself
                raise ConnectionError(f"control message {message.get('op')!r} not sent: {error.strerror}") from None
            if sent == len(data):
                self._report_sent()
                return
            data, fds = data[sent:], fds if sent == 0 else ()
            self._loop.add_writer(self._sock.fileno(), self._on_writable)
        self._outbox.append((data, [os.dup(fd) for fd in fds]))
        self._outbox_bytes += len(data)
        if self._outbox_bytes > SEND_BYTES_MAX:
            self._stop(ChannelError(f"peer does not read: {self._outbox_bytes} bytes of control messages wait for it"))
            raise ChannelError(str(self._end))

    def reply(self, message: Message, **fields: Any) -> None:
        """Answer the call *message*."""
        self.send({"op": "reply", "id": message.get("id"), "ok": True, **fields})

    def call(
        self, message: Message, fds: Sequence[int] = (), timeout: float | None = None
    ) -> Coroutine[Any, Any, Message]:
        """Send *message* at once; what is returned, to be awaited, is its reply, *timeout* seconds from then at most.

        Raises ConnectionError when the peer is gone or goes, the remote error as a HeadraceError, TimeoutError.
        """
        self._last_id += 1
        self.send({**message, "id": self._last_id}, fds)
        future: asyncio.Future[Message] = self._loop.create_future()
        self._calls[self._last_id] = future
        return self._reply_to(self._last_id, future, message.get("op"), timeout)

    async def _reply_to(
        self, call_id: int, future: asyncio.Future[Message], op: object, timeout: float | None
    ) -> Message:
        try:
            reply = await asyncio.wait_for(future, timeout)
        except asyncio.TimeoutError:  # on 3.10 not yet the built-in one
            raise TimeoutError(f"no reply to control message {op!r} for {timeout} s") from None
        finally:
            self._calls.pop(call_id, None)
        if reply.get("ok") is False:
            raise errors.from_message(reply)
        return reply

    async def receive(self) -> Received:
        """The next message that is no reply. Raises EOFError when the peer is gone, ChannelError."""
        while not self._inbox:
            if self._end is not None:
                raise self._end
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        received = self._inbox.popleft()
        self._read_on()
        return received

    async def serve(self, handler: Callable[[Message, list[int]], Awaitable[None] | None]) -> None:
        """Give each message that is no reply to *handler*, in order; return when the peer is gone. Raises ChannelError.

        An awaitable that the handler returns is awaited before the next message.
        """
        while True:
            try:
                message, fds = await self.receive()
            except EOFError:
                return
            result = handler(message, fds)
            if inspect.isawaitable(result):
                await result

    def close(self) -> None:
        self._stop(EOFError("control channel was closed here"))
        for _, fds in self._inbox:
            close_descriptors(fds)
        self._inbox.clear()
        self._sock.close()

    def _read_on(self) -> None:
        if not self._is_reading and self._end is None and len(self._inbox) < INBOX_MAX:
            self._loop.add_reader(self._sock.fileno(), self._on_readable)
            self._is_reading = True

    def _read_off(self) -> None:
        if self._is_reading:
            self._loop.remove_reader(self._sock.fileno())
            self._is_reading = False

    def _on_readable(self) -> None:
        try:
            read(self._sock, self._decoder)
            while (received := self._decoder.next()) is not None:
                self._deliver(*received)
        except (EOFError, ChannelError) as error:
            self._stop(error)
        if len(self._inbox) >= INBOX_MAX:
            self._read_off()
        if self._inbox:
            self._wake()

    def _deliver(self, message: Message, fds: list[int]) -> None:
        if message["op"] != "reply":
            self._inbox.append((message, fds))
            return
        close_descriptors(fds)
        call_id = message.get("id")
        future = self._calls.get(call_id) if type(call_id) is int else None
        if future is not None and not future.done():  # else a reply past its call's time-out
            future.set_result(message)

    def _on_writable(self) -> None:
        try:
            while self._outbox:
                data, fds = self._outbox[0]
                sent = write(self._sock, data, fds)
                close_descriptors(fds)
                self._outbox_bytes -= sent
                if sent < len(data):
                    self._outbox[0] = (data[sent:], [])
                else:
                    self._outbox.popleft()
                    self._report_sent()
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop_outbox()
        self._loop.remove_writer(self._sock.fileno())

    def _report_sent(self) -> None:
        if self._on_sent is not None:
            self._on_sent()

    def _drop_outbox(self) -> None:
        for _, fds in self._outbox:
            close_descriptors(fds)
        self._outbox.clear()
        self._outbox_bytes = 0

    def _stop(self, reason: Exception) -> None:
        """No more traffic: fail the calls, wake the receiver once the inbox is empty. The first reason stays."""
        if self._end is not None:
            return
        self._end = reason
        self._read_off()
        self._loop.remove_writer(self._sock.fileno())
        self._drop_outbox()
        self._decoder.close()
        for future in self._calls.values():
            if not future.done():
                future.set_exception(ConnectionError(str(reason)))
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
