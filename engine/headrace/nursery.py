"""The template as the supervisor sees it: started when needed, asked for workers, started anew when it dies."""

import asyncio
import functools
import os

from headrace import control, log, processes
from headrace._memory import Board
from headrace.children import BootFailed, Reaper
from headrace.config import Config
from headrace.control import Message
from headrace.control_async import AsyncChannel
from headrace.errors import HeadraceError

START_S = 300.0  # imports from a cold disk; torch alone takes seconds
FORK_S = 10.0

_log = log.get("supervisor")


class Nursery:
    """pid: of the template, 0 while there is none."""

    def __init__(self, config: Config, board_fd: int, board: Board, reaper: Reaper) -> None:
        self.pid = 0
        self._config = config
        self._board_fd = board_fd
        self._board = board
        self._reaper = reaper
        self._channel: AsyncChannel | None = None
        self._lock = asyncio.Lock()
        self._is_closing = False

    async def start(self) -> None:
        """Have a template that is ready to fork. Raises BootFailed with its reason."""
        async with self._lock:
            if self._channel is not None and self._channel.is_open:
                return
            ours, theirs = control.pair()
            try:
                with theirs:
                    pid = processes.spawn("headrace.template", theirs)
            except BaseException:
                ours.close()
                raise
            death = self._reaper.watch(pid)
            self._channel = AsyncChannel(ours)
            death.add_done_callback(functools.partial(self._on_death, self._channel))
            message = {"op": "start", "config": self._config.asdict(), "supervisor": os.getpid()}
            try:
                await self._channel.call(message, [self._board_fd], START_S)
            except (HeadraceError, OSError) as error:
                self._channel.close()
                failure = BootFailed(f"the template could not start: {error}")
                failure.detail = getattr(error, "detail", "")
                raise failure from None
            self.pid = pid
            _log.info("template.up", pid=pid, imports=self._config.template_imports)

    async def fork(self, index: int, cpus: tuple[int, ...] | None, threads: int) -> tuple[int, AsyncChannel, int]:
        """A new worker: its pid, the channel on which it will say hello, and the end of a pipe that what it prints can
        be read from. Raises HeadraceError, ConnectionError."""
        message = {
            "op": "fork",
            "worker": index,
            "cpus": None if cpus is None else list(cpus),
            "threads": threads,
            "config": self._config.asdict(),
        }
        try:
            return await self._fork(index, message)
        except ConnectionError:  # the template died just now
            return await self._fork(index, message)

    async def _fork(self, index: int, message: Message) -> tuple[int, AsyncChannel, int]:
        await self.start()
        assert self._channel is not None
        ours, theirs = control.pair()
        output, their_output = os.pipe()
        try:
            with theirs:
                reply = await self._channel.call(message, [theirs.fileno(), their_output], FORK_S)
        except BaseException:
            ours.close()
            os.close(output)
            raise
        finally:
            os.close(their_output)
        # A worker sleeps at its doorbell, not at its socket.
        return reply["pid"], AsyncChannel(ours, functools.partial(self._board.notify, index)), output

    def close(self) -> None:
        """Let the template go; it ends when its channel does."""
        self._is_closing = True
        if self._channel is not None:
            self._channel.close()

    def _on_death(self, channel: AsyncChannel, death: "asyncio.Future[object]") -> None:
        if not self._is_closing and not death.cancelled():
            _log.warning("template.lost", reason=str(death.result()))
        self.pid = 0
        channel.close()
