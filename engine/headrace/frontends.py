"""The frontends as the supervisor sees them: started, told what holds, restarted when they die.

Invariants
1. A frontend is live from its start message on, and with that message it is sent, in the same turn of the loop, all
   that holds: so what is broadcast from then on and what it began with leave no gap.
2. broadcast() returns when every live frontend has acted on the message or has been reaped.
3. Each process has a segment of its own, never a predecessor's: nobody knows what a dying one has written into its.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from socket import socket
from typing import Any

from headrace import affinity, control, log, processes
from headrace._memory import create_segment, largest_slot
from headrace.children import Backoff, BootFailed, Death, Reaper, guard, wait_for_death
from headrace.config import Config
from headrace.control import ChannelError, Message
from headrace.control_async import AsyncChannel
from headrace.errors import HeadraceError

READY_S = 30.0
ACK_S = 10.0  # a frontend never waits for anything, so one that takes this long is stuck

_log = log.get("supervisor")


@dataclass(slots=True, eq=False)
class Frontend:
    """One process. segment, eventfd: descriptors, which its workers are sent too."""

    index: int
    pid: int
    channel: AsyncChannel
    death: "asyncio.Future[Death]"
    ready: asyncio.Event
    segment: int
    eventfd: int


class Frontends:
    """manage: answers a message of op "manage" with the fields of its reply; snapshot: the messages that tell a new
    frontend all that holds; attach: shows a new frontend to the workers; on_fatal: as in Workers."""

    def __init__(
        self,
        config: Config,
        board_fd: int,
        listeners: Mapping[str, socket],
        reaper: Reaper,
        manage: Callable[[Message], Awaitable[dict[str, Any]]],
        snapshot: Callable[[], list[Message]],
        attach: Callable[[Frontend], None],
        on_fatal: Callable[[str], None],
    ) -> None:
        self.live: dict[int, Frontend] = {}
        self.on_suspect: Callable[[int], None] = lambda worker: None  # a worker publishes what names nothing
        self.on_wake: Callable[[int], None] = _ignore  # a request came for a model (its index) that no worker has
        self._config = config
        self._board_fd = board_fd
        self._listeners = listeners
        self._reaper = reaper
        self._manage = manage
        self._snapshot = snapshot
        self._attach = attach
        self._on_fatal = on_fatal
        self._cpus: tuple[int, ...] | None = None
        self._stopping = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self, cpus: tuple[int, ...] | None) -> None:
        """Start all and wait until they accept. cpus: to pin them to. Raises BootFailed."""
        self._cpus = cpus
        firsts = []
        for index in range(self._config.frontends):
            firsts.append(asyncio.get_running_loop().create_future())
            self._keepers.append(asyncio.create_task(self._keep(index, firsts[-1])))
            guard(self._keepers[-1], self._on_fatal)
        for first in firsts:
            await first

    def pin(self, cpus: tuple[int, ...] | None) -> None:
        """Move all to these CPUs, and those to come; None: to all."""
        if cpus != self._cpus:
            self._cpus = cpus
            for frontend in self.live.values():
                affinity.pin(frontend.pid, cpus)

    def tell(self, message: Message) -> None:
        """Send to every live frontend, without waiting."""
        for frontend in self.live.values():
            try:
                frontend.channel.send(message)
            except ConnectionError:
                pass  # it is dying; its successor begins with all that holds by then

    async def broadcast(self, message: Message, timeout_s: float = ACK_S) -> dict[int, Message]:
        """Have every live frontend act on *message*; one that does not within *timeout_s* is killed.

        Returns the replies by frontend; one that died gave none.
        """
        acknowledgements: dict[int, Coroutine[Any, Any, Message | None]] = {}
        for frontend in self.live.values():
            try:
                reply = frontend.channel.call(message, timeout=timeout_s)
            except ConnectionError:
                acknowledgements[frontend.index] = _none_after(frontend.death)
            else:
                acknowledgements[frontend.index] = self._acknowledged(frontend, message, reply)
        replies = await asyncio.gather(*acknowledgements.values())
        return {index: reply for index, reply in zip(acknowledgements, replies, strict=True) if reply is not None}

    async def drain(self, timeout_s: float) -> None:
        """Have all accept no more and answer what is in; what is left after *timeout_s* is answered 503.

        From here on none is restarted; one that does not even manage that is killed.
        """
        self._stopping.set()
        await self.broadcast({"op": "drain", "within_s": timeout_s}, timeout_s + ACK_S)

    async def stop(self, timeout_s: float) -> None:
        """Let all end; kill those that do not within *timeout_s*."""
        self._stopping.set()
        for frontend in self.live.values():
            frontend.channel.close()  # the end of the channel is theirs
        if self._keepers:
            _, late = await asyncio.wait(self._keepers, timeout=timeout_s)
            if late:
                self.kill()
                await asyncio.wait(late)

    def kill(self) -> None:
        self._stopping.set()
        for frontend in self.live.values():
            self._reaper.kill(frontend.pid)

    async def _keep(self, index: int, first: "asyncio.Future[None]") -> None:
        """The succession of frontends at one index."""
        backoff, loop = Backoff(), asyncio.get_running_loop()
        while True:
            ready_s = None
            lost: dict[str, object]
            try:
                frontend = self._spawn(index)
            except OSError as error:
                reason, lost = f"could not be started: {error}", {"error": error}
            else:
                await self._watch(frontend, first)
                ready_s = loop.time() if frontend.ready.is_set() else None
                death = await wait_for_death(frontend.death)
                self._bury(frontend)
                reason, lost = f"{death} before it was ready", death.fields()
            if self._stopping.is_set():
                return
            if not first.done():
                first.set_exception(BootFailed(f"frontend {index} {reason}"))
                return
            pause_s = backoff.after(0.0 if ready_s is None else loop.time() - ready_s)
            _log.error("frontend.lost", frontend=index, **lost, restart_in_ms=round(1000 * pause_s))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
                return

    def _spawn(self, index: int) -> Frontend:
        """Start a process and send it all that holds. Raises OSError."""
        config = self._config
        largest = largest_slot(config.max_request_bytes, config.max_response_bytes)
        with contextlib.ExitStack() as undo:  # what was taken when the next is not to be had
            segment = create_segment(index, config.arena_bytes, largest)
            undo.callback(os.close, segment)
            eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            undo.callback(os.close, eventfd)
            ours, theirs = control.pair()
            undo.callback(ours.close)
            with theirs:
                pid = processes.spawn("headrace.frontend", theirs)
            undo.pop_all()
        channel = AsyncChannel(ours)
        frontend = Frontend(index, pid, channel, self._reaper.watch(pid), asyncio.Event(), segment, eventfd)
        self._run(self._serve(frontend))
        if self._cpus is not None:
            with contextlib.suppress(OSError):  # it died already
                os.sched_setaffinity(pid, self._cpus)
        message = {
            "op": "start",
            "frontend": index,
            "config": config.asdict(with_secrets=True),
            "listeners": list(self._listeners),
            "single_port": config.single_port,
            "supervisor": os.getpid(),
        }
        sockets = [listener.fileno() for listener in self._listeners.values()]
        try:
            channel.send(message, [self._board_fd, segment, eventfd, *sockets])
            for known in self._snapshot():
                channel.send(known)
        except ConnectionError:
            pass  # it died already, and its death will be seen
        self.live[index] = frontend
        self._attach(frontend)
        return frontend

    async def _watch(self, frontend: Frontend, first: "asyncio.Future[None]") -> None:
        """Wait until it is ready, or dead; kill it when it takes too long."""
        is_ready = asyncio.create_task(frontend.ready.wait())
        awaited: set[asyncio.Future[Any]] = {is_ready, frontend.death}
        await asyncio.wait(awaited, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        is_ready.cancel()
        if frontend.ready.is_set():
            _log.info("frontend.up", frontend=frontend.index, pid=frontend.pid)
            if not first.done():
                first.set_result(None)
        elif not frontend.death.done():
            _log.error("frontend.stuck", frontend=frontend.index, pid=frontend.pid, waited_s=READY_S)
            self._reaper.kill(frontend.pid)

    def _bury(self, frontend: Frontend) -> None:
        if self.live.get(frontend.index) is frontend:
            del self.live[frontend.index]
        frontend.channel.close()
        control.close_descriptors((frontend.segment, frontend.eventfd))

    async def _serve(self, frontend: Frontend) -> None:
        try:
            await frontend.channel.serve(lambda message, fds: self._hear(frontend, message, fds))
        except ChannelError as error:
            _log.error("frontend.garbled", frontend=frontend.index, error=error)
            self._reaper.kill(frontend.pid)

    def _hear(self, frontend: Frontend, message: Message, fds: list[int]) -> None:
        control.close_descriptors(fds)
        if message["op"] == "ready":
            frontend.ready.set()
        elif message["op"] == "manage":
            self._run(self._answer(frontend, message))
        elif message["op"] == "suspect":
            _log.error("worker.suspect", worker=message["worker"], why="its completions name nothing that it was given")
            self.on_suspect(message["worker"])
        elif message["op"] == "wake":
            self.on_wake(message["model"])
        else:
            _log.error("control.unknown", frontend=frontend.index, op=message["op"])

    async def _answer(self, frontend: Frontend, message: Message) -> None:
        fields = await self._manage(message)
        try:
            frontend.channel.reply(message, **fields)
        except ConnectionError:
            pass  # with the frontend went the client's connection

    async def _acknowledged(self, frontend: Frontend, message: Message, reply: Awaitable[Message]) -> Message | None:
        try:
            return await reply
        except ConnectionError:
            await wait_for_death(frontend.death)
        except TimeoutError:
            _log.error("frontend.late", frontend=frontend.index, pid=frontend.pid, op=message["op"])
            self._reaper.kill(frontend.pid)
            await wait_for_death(frontend.death)
        except HeadraceError as error:
            _log.error("frontend.refused", frontend=frontend.index, op=message["op"], error=error)
        return None

    def _run(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _none_after(death: "asyncio.Future[Death]") -> None:
    await wait_for_death(death)


def _ignore(model: int) -> None:
    pass
