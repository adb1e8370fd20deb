"""Puts the parts together and runs them until a signal comes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

from aiohttp import web

from headrace import log, machine
from headrace.simulate.api_errors import REGION, ValidationError
from headrace.simulate.cloudwatch import Metrics
from headrace.simulate.container import Container, NeverInService, OwnContainer
from headrace.simulate.disk import Disk, DiskError
from headrace.simulate.endpoint import Endpoint
from headrace.simulate.model_api import ModelApi
from headrace.simulate.packages import Packages, package_at
from headrace.simulate.platform import Platform
from headrace.simulate.residency import Residency
from headrace.simulate.rules import Rules
from headrace.simulate.trace import Trace

_log = log.get("simulate")


class CannotStart(Exception):
    """Shown to the user."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the arguments ask for. packages: the folder of many models; package: the archive of one; neither: the
    container brings its own. command: of the container, with {port} and {base} in it; or url, where one runs already.
    disk: a folder, or empty for one that is made and removed. container_path: that folder as the container sees it, or
    empty for the same path. environment: of the container, besides SageMaker's."""

    endpoint: str
    variant: str
    host: str
    port: int
    packages: str
    package: str
    command: tuple[str, ...]
    url: str
    container_port: int
    disk: str
    container_path: str
    environment: Mapping[str, str]
    rules: Rules


async def run(plan: Plan, trace_file: IO[str] | None) -> None:
    """Raises CannotStart. Returns after SIGINT or SIGTERM."""
    folder = plan.disk or tempfile.mkdtemp(prefix="headrace-simulate-")
    try:
        disk = Disk(folder, plan.rules.disk_bytes)
    except DiskError as error:
        raise CannotStart(str(error)) from None
    try:
        await _Simulator(plan, disk, Trace(trace_file)).run()
    finally:
        disk.close()
        if not plan.disk:
            shutil.rmtree(folder, ignore_errors=True)


class _Simulator:
    def __init__(self, plan: Plan, disk: Disk, trace: Trace) -> None:
        clock = asyncio.get_running_loop().time
        self.plan = plan
        self.disk = disk
        port = plan.container_port or _free_port()
        self.api = ModelApi(plan.url or f"http://127.0.0.1:{port}")
        self.metrics = Metrics(plan.endpoint, plan.variant)
        if plan.url:
            self.container = Container(self.api, plan.rules, asks_for_models=bool(plan.packages))
        else:
            command = [word.replace("{port}", str(port)).replace("{base}", disk.root) for word in plan.command]
            self.container = OwnContainer(self.api, plan.rules, command, _environment(plan, port, disk.root))
        self.models: Residency | None = None
        if plan.packages:
            self.models = Residency(
                plan.endpoint,
                self.api,
                disk,
                Packages(plan.packages),
                plan.rules,
                self.metrics,
                plan.container_path or disk.root,
                clock,
            )
            self.container.on_loss = self.models.lose_all
            self.container.on_return = self.models.lose_all_but
        self.metrics.measure = self._measure
        platform = Platform(
            plan.endpoint, plan.variant, self.api, self.container, self.models, plan.rules, self.metrics, clock
        )
        self.runner = web.AppRunner(Endpoint(platform, trace).application(), access_log=None, shutdown_timeout=5)

    async def run(self) -> None:
        if self.plan.package:
            await self._unpack_the_one()
        self.api.open()
        stopping = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        keeping = asyncio.create_task(self.container.keep())
        stop = asyncio.create_task(stopping.wait())
        try:
            await self._listen()
            await asyncio.wait({keeping, stop}, return_when=asyncio.FIRST_COMPLETED)
            if keeping.done():
                keeping.result()
        except NeverInService as error:
            raise CannotStart(str(error)) from None
        finally:
            stop.cancel()
            keeping.cancel()
            await asyncio.wait({keeping, stop})
            await self.runner.cleanup()
            if self.models is not None:
                await self.models.close()
            await self.container.stop()
            await self.api.close()
        _log.info("stopped")

    async def _listen(self) -> None:
        await self.runner.setup()
        site = web.TCPSite(self.runner, self.plan.host, self.plan.port)
        try:
            await site.start()
        except OSError as error:
            raise CannotStart(
                f"cannot listen on {self.plan.host}:{self.plan.port}: {error.strerror}; choose another --port"
            ) from None
        port = self.runner.addresses[0][1]
        _log.info("listening", endpoint=self.plan.endpoint, url=f"http://{self.plan.host}:{port}", disk=self.disk.root)

    async def _unpack_the_one(self) -> None:
        path = self.plan.package
        try:
            unpacked = await self.disk.unpack(package_at(path, os.stat(path)))
        except (OSError, ValidationError) as error:
            raise CannotStart(str(error)) from None
        os.rename(unpacked.path, os.path.join(self.disk.root, "model"))

    def _measure(self) -> dict[str, float]:
        """What is told when somebody looks; in a thread of its own."""
        values: dict[str, float] = {}
        if self.models is not None:
            values["LoadedModelCount"] = self.models.loaded_count
            values["DiskUtilization"] = 100 * self.disk.used_bytes / self.disk.limit_bytes
        memory = self.container.memory_bytes()
        if memory is not None:
            values["MemoryUtilization"] = 100 * memory / (self.plan.rules.memory_bytes or machine.memory_limit_bytes())
        return values


def _environment(plan: Plan, port: int, base: str) -> dict[str, str]:
    """The container's: ours, SageMaker's, the user's. HEADRACE_HOST: in SageMaker mode Headrace listens everywhere,
    which a rehearsal must not."""
    return {
        "HEADRACE_HOST": "127.0.0.1",
        **{name: value for name, value in os.environ.items() if not name.startswith("SAGEMAKER_")},
        "AWS_REGION": REGION,
        "SAGEMAKER_BASE_DIR": base,
        "SAGEMAKER_BIND_TO_PORT": str(port),
        **({"SAGEMAKER_MULTI_MODEL": "true"} if plan.packages else {}),
        **plan.environment,
    }


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
