"""Ends workers that are stuck: whose loop has been in one batch for longer than anybody waits for an answer.

The heartbeat is written by the loop that does the work (ext/layout.h: state, state_since_ns), never by a thread beside
it, which would go on beating while the work is stuck. The callers have been answered by their frontend at their
deadline, which is their model's own; what waits behind the stuck batch is delivered again, to another worker or to the
successor.
"""

import asyncio
import signal
import time

from headrace import log
from headrace._memory import Board
from headrace.children import Reaper
from headrace.config import Config
from headrace.registry import Registry
from headrace.workers import Worker, Workers

LOOK_S = 0.25
GRACE_MS = 250  # beyond the model's time-out: time for answers under way
TRACEBACK_S = 2.0  # between SIGABRT, which has the traceback printed, and SIGKILL

_log = log.get("supervisor")


class Watchdog:
    def __init__(self, config: Config, registry: Registry, board: Board, workers: Workers, reaper: Reaper) -> None:
        self._config = config
        self._registry = registry
        self._limit_ns = self._servers_ns()  # at the last look; what held at the start was promised before the first
        self._held_ns = 0  # a longer one, which held before, until the last request that it was promised to is through
        self._held_until_ns = 0
        self._board = board
        self._workers = workers
        self._reaper = reaper
        self._ending: set[int] = set()  # pids

    async def run(self) -> None:
        """Looks around until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look(time.monotonic_ns())

    def look(self, now_ns: int) -> None:
        """Begins to end every worker that is stuck at *now_ns* (CLOCK_MONOTONIC)."""
        limit_ns = self._limit(now_ns)
        for worker in self._workers.by_index.values():
            if worker.is_up and worker.pid not in self._ending:
                page = self._board.page(worker.index)
                busy_ns = now_ns - page["state_since_ns"]
                if page["state"] == "running" and busy_ns > self._limit_of(page["state_model"], limit_ns, now_ns):
                    self._end(worker, page["state_model"], busy_ns)

    def _limit_of(self, index: int, servers_ns: int, now_ns: int) -> int:
        """How long a batch of the model with that index may run."""
        model = self._registry.find(index)
        own_ms = 0 if model is None else model.timeout_ms
        if model is not None and own_ms and now_ns < model.promised[1]:
            own_ms = max(own_ms, model.promised[0])
        return (own_ms + GRACE_MS) * 1_000_000 if own_ms else servers_ns

    def _limit(self, now_ns: int) -> int:
        before, self._limit_ns = self._limit_ns, self._servers_ns()
        if self._limit_ns < before:
            self._held_ns, self._held_until_ns = max(before, self._held(now_ns)), now_ns + before
        return max(self._limit_ns, self._held(now_ns))

    def _servers_ns(self) -> int:
        return (self._config.timeout_ms + GRACE_MS) * 1_000_000

    def _held(self, now_ns: int) -> int:
        return self._held_ns if now_ns < self._held_until_ns else 0

    def _end(self, worker: Worker, model: int, busy_ns: int) -> None:
        _log.error("worker.stuck", worker=worker.index, pid=worker.pid, model_index=model, busy_ms=busy_ns // 1_000_000)
        pid = worker.pid
        self._ending.add(pid)
        worker.is_stuck = True
        self._reaper.kill(pid, signal.SIGABRT)
        asyncio.get_running_loop().call_later(TRACEBACK_S, self._finish, pid)

    def _finish(self, pid: int) -> None:
        self._ending.discard(pid)
        self._reaper.kill(pid)  # does nothing when it is gone already
