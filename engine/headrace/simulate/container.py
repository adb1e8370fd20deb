"""The container: in service while its /ping is answered 200, started again when it is not, or has ended.

Sources: "Custom Inference Code with Hosting Services" for how it is started, stopped and pinged.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence

import psutil

from headrace import log
from headrace.simulate.model_api import AnswerTooLarge, Lost, ModelApi
from headrace.simulate.rules import RESTART_S, Rules

START_PING_S = 0.25  # between pings until the first good one

_log = log.get("simulate")


class NeverInService(Exception):
    """What CreateEndpoint would fail with. Shown to the user."""


class Container:
    """One that somebody else runs, at a URL: pinged, not restarted.

    keep() runs for as long as the simulator does. on_loss(): what it had loaded is gone; on_return(names): it is back,
    and says that it has these.
    """

    def __init__(self, api: ModelApi, rules: Rules, asks_for_models: bool) -> None:
        self._api = api
        self._rules = rules
        self._asks_for_models = asks_for_models
        self.is_in_service = False
        self.on_loss: Callable[[], None] = lambda: None
        self.on_return: Callable[[set[str]], None] = lambda names: None

    async def keep(self) -> None:
        """Raises NeverInService when it is not in service within the time for a start."""
        if not await self._comes_into_service():
            raise NeverInService(f"{self._api.url}/ping was not answered 200 within {self._rules.start_s:g} s")
        while True:
            await self._go_on()
            while True:
                why = await self._fails()
                self.is_in_service = False
                _log.error("container.out_of_service", why=why, restart="none: it is not ours")
                while not await self._comes_into_service():
                    pass
                await self._go_on()

    async def stop(self) -> None:
        """End it, if it is ours."""

    def memory_bytes(self) -> int | None:
        """Resident memory of its processes; None where they are not ours to look at."""
        return None

    async def _go_on(self) -> None:
        if self._asks_for_models:
            try:
                self.on_return(await self._api.loaded(self._rules.ping_s))
            except (Lost, AnswerTooLarge, asyncio.TimeoutError) as error:
                _log.warning("container.list_failed", error=str(error) or "no answer in time", taken_for="it has none")
                self.on_loss()  # if it does have them, its 409 to their loads says so
        self.is_in_service = True
        _log.info("container.in_service", url=self._api.url)

    async def _comes_into_service(self) -> bool:
        """Whether a ping is answered 200 within the time for a start."""
        end = asyncio.get_running_loop().time() + self._rules.start_s
        while asyncio.get_running_loop().time() < end:
            if await self._api.ping(self._rules.ping_s) == 200:
                return True
            await asyncio.sleep(min(START_PING_S, self._rules.ping_every_s))
        return False

    async def _fails(self) -> str:
        """Waits until so many pings in a row have failed; says how."""
        failures = 0
        while True:
            await asyncio.sleep(self._rules.ping_every_s)
            status = await self._api.ping(self._rules.ping_s)
            if status == 200:
                failures = 0
                continue
            failures += 1
            said = f"status {status}" if status else f"no answer within {self._rules.ping_s:g} s"
            _log.warning("ping.failed", answer=said, failures=failures, of=self._rules.ping_failures)
            if failures >= self._rules.ping_failures:
                return f"{failures} pings in a row failed, the last with {said}"


class OwnContainer(Container):
    """A command of ours, in a session of its own, which ends with the simulator."""

    def __init__(self, api: ModelApi, rules: Rules, command: Sequence[str], environment: Mapping[str, str]) -> None:
        super().__init__(api, rules, asks_for_models=False)
        self._command = command
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self.restarts = 0

    async def keep(self) -> None:
        pause = RESTART_S[0]
        was_in_service = False
        while True:
            process = await self._start()
            ended = asyncio.create_task(process.wait())
            try:
                if await _first(self._comes_into_service(), ended):
                    was_in_service = True
                    pause = RESTART_S[0]
                    await self._go_on()
                    why = await _first(self._fails(), ended)
                    why = why or f"it {_end(process)}"
                elif process.returncode is not None:
                    why = f"it {_end(process)} before its /ping was answered 200"
                else:
                    why = f"its /ping was not answered 200 within {self._rules.start_s:g} s"
            finally:
                self.is_in_service = False
                ended.cancel()
            self.on_loss()
            if not was_in_service:
                await self.stop()
                raise NeverInService(f"the container never came into service: {why}")
            _log.error("container.out_of_service", pid=process.pid, why=why, restart_in_s=pause)
            await self.stop()
            await asyncio.sleep(pause)
            pause = min(pause * 2, RESTART_S[1])
            self.restarts += 1

    async def stop(self) -> None:
        """SIGTERM to its first process, SIGKILL after the time for a stop; then to whatever it leaves behind."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), self._rules.stop_s)
            except asyncio.TimeoutError:
                _log.warning("container.killed", pid=process.pid, after_s=self._rules.stop_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        _log.info("container.stopped", pid=process.pid, end=_end(process))

    def memory_bytes(self) -> int | None:
        """Proportional: what processes share counts once."""
        process = self._process
        if process is None:
            return None
        total = 0
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(process.pid)
            for each in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += each.memory_full_info().pss
        return total

    async def _start(self) -> asyncio.subprocess.Process:
        safe_path = (
            ("-P",) if sys.version_info >= (3, 11) else ()
        )  # the directory of our start is no place to import from
        words = (*safe_path, "-m", "headrace.simulate.attend", str(os.getpid()), *self._command)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *words,
            env=dict(self._environment),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        _log.info("container.started", pid=self._process.pid, command=" ".join(self._command), url=self._api.url)
        return self._process


async def _first(work: Awaitable[object], ended: asyncio.Task[int]) -> object:
    """What *work* gives; None when the process has ended before."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() and not ended.done() else None
    finally:
        task.cancel()


def _end(process: asyncio.subprocess.Process) -> str:
    status = process.returncode
    if status is not None and status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"
