"""The workers as the supervisor sees them: forked, shown to the frontends, restarted when they die, retired.

    fork -> hello -> attach (each frontend's segment) -> up (frontends may use the rings) -> its models are loaded
    dead -> reaped -> down (frontends took its last completions and forgot the rings) -> page cleared -> fork ...

Invariants
1. A successor is forked only when every frontend has acknowledged that its predecessor is down.
2. A worker that could not start at all fails whoever waits for it; one that had been up is tried again for ever, ever
   more slowly, unless it says that it cannot boot and no other is up: then the server stops.
"""

import asyncio
import contextlib
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace import affinity, log, placement, processes
from headrace._memory import WORKERS_MAX, Board
from headrace.children import Backoff, BootFailed, Death, Reaper, guard, signal_name, wait_for_death
from headrace.config import Config
from headrace.control import ChannelError, Message, close_descriptors
from headrace.control_async import AsyncChannel
from headrace.errors import HeadraceError, WorkerLost
from headrace.frontends import Frontend, Frontends
from headrace.nursery import Nursery
from headrace.settings import changeable
from headrace.worker_output import WorkerOutput

HELLO_S = 10.0
INDICES_LEFT = 100  # of workers, that extra ones leave to those that models must have
OOM_SCORE = 300  # above the supervisor's and the frontends', which cannot be replaced without loss

_log = log.get("supervisor")


@dataclass(slots=True, eq=False)
class Worker:
    """One index, and the process that has it now. owner: index of the model that has it to itself; 0: shared.

    is_extra: forked for a load that would hold up others; it is that model's own until it is loaded, then shared.
    """

    index: int
    cpus: tuple[int, ...] | None
    threads: int
    owner: int = 0
    is_extra: bool = False
    pid: int = 0
    channel: AsyncChannel | None = None
    death: "asyncio.Future[Death] | None" = None
    output: WorkerOutput | None = None
    is_up: bool = False
    is_stuck: bool = False  # the watchdog ends it
    lost_s: float = 0.0  # when the death of its process was noticed, on the loop's clock; 0: its successor serves
    retired: asyncio.Event = field(default_factory=asyncio.Event)
    keeper: "asyncio.Task[None] | None" = None
    is_recycled: bool = False  # its process was told to end, to be followed by a smaller one
    is_leaving: bool = False  # a shared one that gets no model any more

    async def call(self, message: Message, timeout_s: float | None = None, fds: Sequence[int] = ()) -> Message:
        """The reply to *message*. Raises the remote error, TimeoutError, and WorkerLost with how it ended."""
        channel, death = self.channel, self.death
        if not self.is_up or channel is None or death is None:
            raise WorkerLost(f"worker {self.index} is not running")
        try:
            return await channel.call(message, fds, timeout_s)
        except ConnectionError:
            raise WorkerDied(self.index, await wait_for_death(death)) from None

    def recycle(self) -> None:
        """Have the process answer what is queued and end; a successor follows. Take its routes away first."""
        if self.is_up and self.channel is not None:
            self.is_recycled = True
            with contextlib.suppress(ConnectionError):  # it ends already
                self.channel.send({"op": "stop"})

    def retire(self) -> None:
        """Have no successor; the process is to answer what is queued and end, one still starting once it is up."""
        self.retired.set()
        if self.is_up and self.channel is not None:
            with contextlib.suppress(ConnectionError):  # it ends already
                self.channel.send({"op": "stop"})


class WorkerDied(WorkerLost):
    """A worker ended during a call. death: how."""

    def __init__(self, index: int, death: Death) -> None:
        super().__init__(f"worker {index} {death}")
        self.death = death


class Workers:
    """All workers by index: the shared ones first, dedicated ones where there is room.

    on_up, on_down: awaited after a worker came up, or went down and was reaped; on_blame: awaited before anybody hears
    that a worker has died, with the index of the model that it was at; on_change: the number up has changed;
    on_fatal: no worker can be started any more.
    """

    def __init__(
        self,
        config: Config,
        board: Board,
        nursery: Nursery,
        reaper: Reaper,
        plan: affinity.Plan,
        frontends: Frontends,
        on_change: Callable[[], None],
        on_fatal: Callable[[str], None],
    ) -> None:
        self.by_index: dict[int, Worker] = {}
        self.restarts: Counter[str] = Counter()  # by what made them necessary
        self.on_up: Callable[[Worker], Awaitable[None]] = _nothing
        self.on_down: Callable[[Worker], Awaitable[None]] = _nothing
        self.on_blame: Callable[[int, int, Death, bool], Awaitable[None]] = _blame_nobody
        self.on_error: Callable[[int, Message], None] = lambda worker, message: None  # last_errors.describe() of one
        self.model_at: Callable[[int], str] = lambda worker: ""  # name of the model that the worker is at
        self._config = config
        self._board = board
        self._nursery = nursery
        self._reaper = reaper
        self.plan = plan  # new ones are placed by it
        self._frontends = frontends
        self._on_change = on_change
        self._on_fatal = on_fatal
        self._came_up = asyncio.Event()  # while any ordinary one is up

    def shared(self) -> list[Worker]:
        """Those that models are loaded on, by index."""
        shared = (worker for worker in self.by_index.values() if not worker.owner and not worker.is_leaving)
        return sorted(shared, key=lambda worker: worker.index)

    def ordinary(self) -> list[Worker]:
        """The shared ones that are always there: as many as HEADRACE_WORKERS."""
        return [worker for worker in self.shared() if not worker.is_extra]

    def extras(self) -> list[Worker]:
        """Those beyond, and those about to be."""
        return [worker for worker in self.by_index.values() if worker.is_extra]

    def owned_by(self, model: int) -> list[Worker]:
        return [worker for worker in self.by_index.values() if worker.owner == model]

    @property
    def template_pid(self) -> int:
        """The process that workers are forked from; 0 while there is none."""
        return self._nursery.pid

    def pages(self) -> dict[int, dict[str, Any]]:
        """What each worker that is up says about itself on the board."""
        return {index: self._board.page(index) for index in self.up()}

    def page(self, worker: Worker) -> dict[str, Any]:
        """What that worker says about itself on the board."""
        return self._board.page(worker.index)

    def up(self) -> list[int]:
        return [worker.index for worker in self.by_index.values() if worker.is_up]

    async def wait_for_ordinary(self, timeout_s: float) -> list[Worker]:
        """The ordinary workers that are up, once there is one. Raises WorkerLost when none comes up in time."""
        until_s = asyncio.get_running_loop().time() + timeout_s
        while not (up := [worker for worker in self.ordinary() if worker.is_up]):
            try:
                await asyncio.wait_for(self._came_up.wait(), until_s - asyncio.get_running_loop().time())
            except asyncio.TimeoutError:
                raise WorkerLost(f"no worker has been running for {timeout_s:.0f} s; try again") from None
        return up

    async def start_shared(self) -> None:
        """Start the shared workers and wait until they are up. Raises BootFailed."""
        plan = self.plan
        await asyncio.gather(
            *(self._add(Worker(i, plan.workers[i], plan.threads[i])) for i in range(self._config.workers))
        )

    async def add_shared(self, count: int) -> list[Worker]:
        """So many more, up, each where the plan has it. Raises BootFailed, Overloaded; then none was added."""
        at, plan, added = len(self.ordinary()), self.plan, []
        try:
            for place in range(at, at + count):
                index = placement.free_index(self.by_index, 0, WORKERS_MAX)
                worker = Worker(index, plan.workers[place], plan.threads[place])
                await self._add(worker)
                added.append(worker)
        except HeadraceError:
            await self.retire(added, HELLO_S)
            raise
        return added

    async def add_dedicated(self, model: int) -> Worker:
        """A new worker for that model alone, up. Raises BootFailed, Overloaded."""
        index = placement.free_index(self.by_index, self._config.workers, WORKERS_MAX)
        worker = Worker(index, self.plan.dedicated, self.plan.dedicated_threads, owner=model)
        await self._add(worker)
        return worker

    async def add_extra(self, model: int) -> Worker | None:
        """A new worker to load that model in, up; share() it then. None when there are as many as may be, or nearly no
        index is left. Raises BootFailed."""
        taken = len(self.by_index)
        if len(self.extras()) >= self._config.extra_workers or taken >= WORKERS_MAX - INDICES_LEFT:
            return None
        index = placement.free_index(self.by_index, self._config.workers, WORKERS_MAX)
        worker = Worker(index, self.plan.dedicated, self.plan.dedicated_threads, owner=model, is_extra=True)
        await self._add(worker)
        return worker

    def share(self, worker: Worker) -> None:
        """An extra worker has loaded its model: others may come to it as well."""
        worker.owner = 0
        _log.info("worker.shared", worker=worker.index, pid=worker.pid)

    async def retire(self, workers: Sequence[Worker], timeout_s: float) -> bool:
        """End these workers for good: they answer what is queued. False when any was killed, after *timeout_s*."""
        for worker in workers:
            worker.retire()
        keepers = [worker.keeper for worker in workers if worker.keeper is not None]
        late: set[asyncio.Task[None]] = set()
        if keepers:
            _, late = await asyncio.wait(keepers, timeout=timeout_s)
            if late:
                self.kill([worker for worker in workers if worker.keeper in late])
                await asyncio.wait(late)
        return not late

    def abandon(self) -> None:
        """End all at once, with no successors."""
        for worker in self.by_index.values():
            worker.retired.set()
        self.kill(list(self.by_index.values()))

    def kill(self, workers: Sequence[Worker]) -> None:
        """End these processes at once; unless they are retired, successors follow."""
        for worker in workers:
            self._reaper.kill(worker.pid)

    def attach(self, frontend: Frontend) -> None:
        """Show a new frontend to every worker."""
        for worker in self.by_index.values():
            if worker.is_up and worker.channel is not None:
                self._send_attach(worker.channel, frontend)

    async def _add(self, worker: Worker) -> None:
        """Take the index; returns when the worker is up. Raises BootFailed, and then the index is free again."""
        first = asyncio.get_running_loop().create_future()
        self.by_index[worker.index] = worker
        worker.keeper = asyncio.create_task(self._keep(worker, first))
        guard(worker.keeper, self._on_fatal)
        await first

    async def _keep(self, worker: Worker, first: "asyncio.Future[None]") -> None:
        """The succession of processes at one index."""
        backoff, loop = Backoff(), asyncio.get_running_loop()
        while not worker.retired.is_set():
            up_s = None
            try:
                await self._bear(worker)
            except (HeadraceError, OSError, EOFError) as error:
                death = await self._bury(worker)
                reason = f"worker {worker.index} could not start: {error}" + (f"; it {death}" if death else "")
                if not first.done():
                    first.set_exception(BootFailed(reason))
                    break
                _log.error("worker.not_started", worker=worker.index, reason=reason)
            else:
                up_s = loop.time()
                if not first.done():
                    first.set_result(None)
                await self._live(worker)
                death = await self._bury(worker)
            if death is not None and death.is_boot_failure and not self.up():
                self._on_fatal(f"worker {worker.index} {death} and no other is up")
            pause_s = backoff.after(0.0 if up_s is None else loop.time() - up_s)
            if pause_s >= 1 and not worker.retired.is_set():
                _log.warning("worker.paused", worker=worker.index, restart_in_ms=round(1000 * pause_s))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(worker.retired.wait(), pause_s)
        del self.by_index[worker.index]
        if not first.done():
            first.set_exception(BootFailed(f"worker {worker.index} was retired before it was up"))

    async def _bear(self, worker: Worker) -> None:
        """Fork a process, and make it known. Raises HeadraceError, OSError, EOFError when it does not get that far."""
        worker.pid, channel, output = await self._nursery.fork(worker.index, worker.cpus, worker.threads)
        worker.output = WorkerOutput(output, worker.index, self._config, lambda index: self.model_at(index))
        worker.channel, worker.death, worker.is_stuck = channel, self._reaper.watch(worker.pid), False
        try:
            message, fds = await asyncio.wait_for(channel.receive(), HELLO_S)
        except asyncio.TimeoutError:
            raise TimeoutError(f"no hello for {HELLO_S} s") from None
        close_descriptors(fds)
        if message["op"] != "hello":
            raise ChannelError(f"the first word was {message['op']!r} instead of hello")
        processes.prefer_for_oom(worker.pid, OOM_SCORE)
        for frontend in self._frontends.live.values():
            self._send_attach(channel, frontend)
        worker.is_up = True
        # What has changed since the process was forked; from here on it is told as all are.
        channel.send({"op": "settings", "values": changeable(self._config)})
        if not worker.owner and not worker.is_extra:
            self._came_up.set()
        _log.info("worker.up", worker=worker.index, pid=worker.pid, cpus=worker.cpus, threads=worker.threads)
        await self._frontends.broadcast({"op": "worker", "worker": worker.index, "up": True})
        self._on_change()

    async def _live(self, worker: Worker) -> None:
        """Until it is dead and reaped, and what began when it came up has come to its end."""
        assert worker.channel is not None
        assert worker.death is not None
        if worker.retired.is_set():
            worker.retire()
        work = [asyncio.create_task(self._listen(worker, worker.channel)), asyncio.create_task(self._restore(worker))]
        await wait_for_death(worker.death)
        worker.lost_s = worker.lost_s or asyncio.get_running_loop().time()
        worker.channel.close()  # its children may keep the other end open; calls must fail all the same
        for result in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(result, BaseException):
                detail = "".join(traceback.format_exception(result))
                _log.error("worker.broke", worker=worker.index, error=result, detail=detail)

    async def _bury(self, worker: Worker) -> Death | None:
        """Kill what still lives, wait for it, and tell everybody."""
        if worker.death is None:
            return None
        self._reaper.kill(worker.pid)
        death = await wait_for_death(worker.death)
        assert worker.channel is not None
        worker.channel.close()
        if worker.output is not None:
            worker.output.close()
        was_up, worker.is_up, worker.death, worker.channel = worker.is_up, False, None, None
        is_recycled, worker.is_recycled = worker.is_recycled, False
        if not any(other.is_up for other in self.ordinary()):
            self._came_up.clear()
        if was_up:
            if death.is_clean and (worker.retired.is_set() or is_recycled):
                event = "worker.retired" if worker.retired.is_set() else "worker.recycled"
                _log.info(event, worker=worker.index, pid=worker.pid)
            else:
                _log.error("worker.lost", worker=worker.index, **death.fields())
                page = self._board.page(worker.index)
                if page["state"] in ("running", "loading") and not worker.retired.is_set():
                    await self.on_blame(worker.index, page["state_model"], death, worker.is_stuck)
            await self._frontends.broadcast(
                {"op": "worker", "worker": worker.index, "up": False, "out_of_memory": death.out_of_memory}
            )
        if not worker.retired.is_set():
            self.restarts[_restart_reason(death, worker.is_stuck, is_recycled)] += 1
        self._board.reset(worker.index)
        if was_up:
            await self.on_down(worker)
            self._on_change()
        return death

    async def _restore(self, worker: Worker) -> None:
        """Give a successor what its predecessor had, and say how long nobody served that."""
        up_s = asyncio.get_running_loop().time()
        await self.on_up(worker)
        if worker.lost_s and worker.is_up:
            lost_s, worker.lost_s = worker.lost_s, 0.0
            serving_s = asyncio.get_running_loop().time()
            after_ms, loads_ms = round(1000 * (serving_s - lost_s), 1), round(1000 * (serving_s - up_s), 1)
            _log.info("worker.serving", worker=worker.index, after_ms=after_ms, of_which_loads_ms=loads_ms)

    async def _listen(self, worker: Worker, channel: AsyncChannel) -> None:
        """A worker says what went wrong, besides replies; one that breaks the protocol is ended."""
        try:
            await channel.serve(lambda message, fds: self._hear(worker, message, fds))
        except ChannelError as error:
            _log.error("worker.garbled", worker=worker.index, error=error)
            self._reaper.kill(worker.pid)

    def _hear(self, worker: Worker, message: Message, fds: list[int]) -> None:
        close_descriptors(fds)
        if message["op"] == "error":
            self.on_error(worker.index, message)
        else:
            _log.error("control.unknown", worker=worker.index, op=message["op"])

    def _send_attach(self, channel: AsyncChannel, frontend: Frontend) -> None:
        try:
            channel.send({"op": "attach", "frontend": frontend.index}, [frontend.segment, frontend.eventfd])
        except ConnectionError:
            pass  # it is dying, and its successor is shown all frontends


def _restart_reason(death: Death, is_stuck: bool, is_recycled: bool) -> str:
    """A word for the metrics: a signal's name, or what is known better."""
    if is_stuck:
        return "stuck"
    if death.out_of_memory:
        return "out_of_memory"
    if death.signal:
        return signal_name(death.signal)
    if death.is_clean:
        return "recycled" if is_recycled else "ended"
    return "failed"


async def _nothing(worker: Worker) -> None:
    pass


async def _blame_nobody(worker: int, model: int, death: Death, is_stuck: bool) -> None:
    pass
