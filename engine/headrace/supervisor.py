"""The supervisor: starts everything, keeps it going, ends it. The control plane's top; it serves no request.

    run() -- listeners, board, reaper
          +- lifeline --- the warden, which ends what a dead supervisor leaves
          +- nursery ---- the template, which forks workers
          +- frontends -- processes that speak HTTP
          +- workers ---- processes that run models
          +- deployment - models onto workers, routes to frontends   <-- management <-- "manage" messages of frontends

Signals set events; run() alone acts on them. SIGTERM or SIGINT: accept no more, answer what was accepted, end with 0.
A second one: end at once. SIGHUP: read HEADRACE_TOKEN_FILE again, and the file of settings (running_settings.py).
"""

import asyncio
import os
import signal
from collections.abc import Callable
from socket import socket
from typing import Any

from headrace import access, affinity, listeners, log, processes, surroundings
from headrace._memory import Board, create_board
from headrace.archives import Archives
from headrace.children import Reaper, guard, signal_name
from headrace.config import Config, ModelSpec
from headrace.control import Message
from headrace.deployment import Deployment
from headrace.errors import ConfigError, DownloadFailed, Exit, HeadraceError, ModelError
from headrace.explain import Explainer
from headrace.frontends import Frontend, Frontends
from headrace.health import Health
from headrace.last_errors import LastErrors
from headrace.lifeline import Lifeline
from headrace.management import Management
from headrace.nursery import Nursery
from headrace.overview import Overview
from headrace.quarantine import Quarantine
from headrace.registry import Model, Registry
from headrace.running_settings import RunningSettings
from headrace.scrape import Scrape
from headrace.settings import Settings
from headrace.watchdog import Watchdog
from headrace.workers import Workers

STOP_S = 3.0

OnReady = Callable[[Config, str], None]

_log = log.get("supervisor")


def run(settings: Settings, title: str | None = "supervisor", on_ready: OnReady = lambda config, url: None) -> int:
    """Serve until a signal says stop; returns the exit status (errors.Exit, or 128 + the signal when ended at once).

    title:    None leaves the process's arguments as they are, for those that look for one of them.
    on_ready: called once with the settings and the URL of the inference port, when the models of the start are loaded.
    """
    config = settings.config
    if title is not None:
        processes.set_title(title)
    processes.keep_descriptors()
    try:
        surroundings.tls_context(config)  # better told here, once, than by each frontend
        token = access.message(config)
        sockets = listeners.listen(config)
    except ConfigError as error:
        _log.error("boot_failed", error=error)
        return Exit.BOOT_FAILED
    return asyncio.run(_serve(settings, sockets, token, on_ready))


async def _serve(settings: Settings, sockets: dict[str, socket], token: Message, on_ready: OnReady) -> int:
    supervisor = Supervisor(settings, sockets, token, on_ready)
    try:
        return await supervisor.run()
    finally:
        supervisor.close()


class Supervisor:
    def __init__(self, settings: Settings, sockets: dict[str, socket], token: Message, on_ready: OnReady) -> None:
        processes.become_subreaper()
        self._config = config = settings.config
        self._sockets = sockets
        self._token = token
        self._on_ready = on_ready
        plan = affinity.plan(config.pin, config.workers, config.frontends)
        self._stop = asyncio.Event()  # the first signal, or self._failure
        self._stop_now = asyncio.Event()  # the second
        self._signal = 0
        self._failure = ""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_hangup)
        self._reaper = Reaper()
        self._lifeline = Lifeline(self._reaper)
        self._board_fd = create_board()
        board = Board(self._board_fd)
        self._registry = Registry()
        self._nursery = Nursery(config, self._board_fd, board, self._reaper)
        self._frontends = Frontends(
            config, self._board_fd, sockets, self._reaper, self._manage, self._snapshot, self._attach, self._fail
        )
        self._workers = Workers(
            config, board, self._nursery, self._reaper, plan, self._frontends, self._on_workers_change, self._fail
        )
        self._frontends.on_suspect = lambda worker: self._workers.kill([self._workers.by_index[worker]])
        self._health = Health(config, self._registry, self._workers, self._frontends)
        self._archives = Archives(self._reaper)
        self._deployment = Deployment(
            config, self._registry, self._workers, self._frontends, self._archives, self._board_fd
        )
        self._workers.on_up, self._workers.on_down = self._deployment.restore, self._deployment.take_down
        self._quarantine = Quarantine(self._registry, self._deployment.routes.publish, self._deployment.lift)
        self._workers.on_blame = self._quarantine.blame
        scrape = Scrape(config.metrics_models, self._registry, self._workers, self._frontends, self._deployment)
        self._errors = LastErrors()
        log.observe(self._errors.observe)
        self._workers.on_error = self._note_error
        self._workers.model_at = self._model_at
        self._overview = Overview(config, self._registry, self._workers, self._deployment)
        explainer = Explainer(config, self._registry, self._deployment, self._errors)
        self._settings = RunningSettings(settings, self._registry, self._workers, self._frontends, self._deployment)
        self._management = Management(
            config,
            self._registry,
            self._deployment,
            scrape,
            explainer,
            self._overview,
            self._settings,
            self._drain_asked,
        )
        self._watchdog = Watchdog(config, self._registry, board, self._workers, self._reaper)

    async def run(self) -> int:
        """Start, serve, drain; returns the exit status."""
        deployment = self._deployment
        watched = (self._watchdog, self._health, deployment.admission, deployment.scaling)
        watches = [asyncio.create_task(it.run()) for it in watched]
        for watch in watches:
            guard(watch, self._fail)
        try:
            return await self._run()
        finally:
            for watch in watches:
                watch.cancel()

    async def _run(self) -> int:
        start = asyncio.create_task(self._start())
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({start, stop}, return_when=asyncio.FIRST_COMPLETED)
        error = start.exception() if start.done() else None
        if error is not None:
            if not isinstance(error, HeadraceError):
                raise error
            _log.error("boot_failed", error=error, detail=error.detail)
            await self._end_at_once()
            return Exit.BOOT_FAILED
        await stop
        if self._failure:
            _log.error("failed", error=self._failure)
        else:
            by = signal_name(self._signal) if self._signal else "POST /drain"
            _log.info("draining", by=by, at_most_ms=self._config.drain_timeout_ms)
        drain = asyncio.create_task(self._drain(start))
        stop_now = asyncio.create_task(self._stop_now.wait())
        await asyncio.wait({drain, stop_now}, return_when=asyncio.FIRST_COMPLETED)
        if not drain.done():
            _log.warning("stopped_at_once", signal=signal_name(self._signal))
            await self._end_at_once()
            return 128 + self._signal
        drain.result()
        _log.info("stopped")
        return Exit.BOOT_FAILED if self._failure else Exit.OK

    def close(self) -> None:
        for listener in self._sockets.values():
            listener.close()
        self._archives.close()
        self._reaper.close()
        self._lifeline.close()
        os.close(self._board_fd)

    async def _start(self) -> None:
        config = self._config
        _log.info("listening", **{name: self._url(name) for name in self._sockets})
        await asyncio.gather(self._nursery.start(), self._frontends.start(self._workers.plan.frontends))
        await self._workers.start_shared()
        await self._load_startup_models()
        self._deployment.is_serving = True
        self._health.is_started = True
        self._health.tell()
        processes.give_memory_back()
        url = self._url("inference")
        _log.info(
            "ready",
            url=url,
            workers=len(self._workers.up()),
            frontends=config.frontends,
            models=[model.name for model in self._registry if model.is_routed],
        )
        self._on_ready(config, url)

    async def _load_startup_models(self) -> None:
        """Models that fail are listed as failed; raises the reason of the only one where HEADRACE_FAILED_START=end."""
        specs = self._config.models
        ends = len(specs) == 1 and not self._config.multi_model and self._config.failed_start == "end"
        registered = await asyncio.gather(*(self._register(spec, ends) for spec in specs))
        models = [model for model in registered if model is not None]
        loads = [self._deployment.load(model) for model in models]
        for result in await asyncio.gather(*loads, return_exceptions=True):
            if isinstance(result, BaseException) and (ends or not isinstance(result, HeadraceError)):
                raise result

    async def _register(self, spec: ModelSpec, ends: bool) -> Model | None:
        """None when it failed already, and is listed as failed."""
        is_default = len(self._config.models) == 1 and not self._config.multi_model  # serves /invocations
        try:
            model = await self._management.register_startup(spec)
        except (ModelError, DownloadFailed) as error:
            if ends:
                raise
            _log.error("model.failed", model=spec.name, error=error)
            fields = {"is_startup": True, "is_default": is_default}
            self._registry.register(spec.name, spec.path, spec.path, **fields).fail(str(error))
            return None
        model.is_default = is_default
        return model

    async def _drain(self, start: "asyncio.Task[None]") -> None:
        """Accept no more, have what was accepted answered, then end the processes: workers first."""
        self._health.is_draining = True
        self._health.tell()
        for listener in self._sockets.values():
            listener.close()
        if start.done():
            await self._frontends.drain(self._config.drain_timeout_ms / 1000)
        else:
            start.cancel()
        await self._workers.retire(list(self._workers.by_index.values()), STOP_S)
        await self._frontends.stop(STOP_S)
        self._nursery.close()

    async def _end_at_once(self) -> None:
        self._workers.abandon()
        self._frontends.kill()
        self._nursery.close()
        await self._workers.retire(list(self._workers.by_index.values()), STOP_S)
        await self._frontends.stop(STOP_S)

    def _on_signal(self, number: int) -> None:
        (self._stop_now if self._stop.is_set() else self._stop).set()
        self._signal = number

    def _on_hangup(self) -> None:
        self._read_token()
        self._reading = asyncio.create_task(self._settings.read_again())
        guard(self._reading, self._fail)

    def _read_token(self) -> None:
        """The token may be another now. A file that cannot be used leaves the old one in force."""
        try:
            self._token = access.message(self._config)
        except ConfigError as error:
            _log.error("token.kept", error=error)
            return
        self._frontends.tell(self._token)
        _log.info("token.read", file=self._config.token_file or None)

    def _drain_asked(self) -> dict[str, Any]:
        """POST /drain: as SIGTERM; the answer tells how to recognise the end."""
        self._stop.set()
        return {"status": "Draining", "within_ms": self._config.drain_timeout_ms, **self._overview.identity()}

    def _model_at(self, worker: int) -> str:
        """Name of the model that a worker is at, as its page of the board says; "" for none."""
        page = self._workers.page(self._workers.by_index[worker])
        model = self._registry.find(page["state_model"]) if page["state"] in ("running", "loading") else None
        return model.name if model is not None else ""

    def _note_error(self, worker: int, said: Message) -> None:
        """A worker tells of an error, of a model that it has."""
        name = said.get("model")
        if isinstance(name, str) and name in self._registry and worker in self._registry.get(name).replicas:
            self._errors.note(worker, said)

    def _fail(self, reason: str) -> None:
        self._failure = reason
        self._stop.set()

    async def _manage(self, message: Message) -> dict[str, object]:
        return await self._management.answer(message)

    def _attach(self, frontend: Frontend) -> None:
        self._workers.attach(frontend)

    def _url(self, name: str) -> str:
        return listeners.url(self._sockets[name], self._config.tls_ports in ("both", name))

    def _snapshot(self) -> list[Message]:
        """All that a new frontend has to know."""
        ups: list[Message] = [{"op": "worker", "worker": index, "up": True} for index in self._workers.up()]
        return [self._token, *ups, *self._deployment.routes.all(), self._health.message()]

    def _on_workers_change(self) -> None:
        self._health.tell()
