"""Which models are in the container's memory: they come with their first request and go, least recently used first,
when the container has no memory (507) or the disk no room.

Invariants
1. A model is loaded once, however many requests wait for it.
2. A model that a request is using, or that is being loaded, is not unloaded, and not deleted from the disk.
3. A load holds the room that it needs only while its request is with the container: two loads that both want room
   never wait for each other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from headrace import log
from headrace.simulate.api_errors import ApiError, ModelError, ModelNotReady, ServiceUnavailable, ValidationError
from headrace.simulate.cloudwatch import Metrics
from headrace.simulate.disk import Disk
from headrace.simulate.model_api import Answer, AnswerTooLarge, Lost, ModelApi
from headrace.simulate.packages import NO_VERSION, Packages, Version, hashed
from headrace.simulate.rules import LOADS_MAX, UNLOAD_S, Rules
from headrace.simulate.trace import Record

_log = log.get("simulate")


@dataclass(eq=False, slots=True)
class Model:
    """One that is loaded, or on its way. users: requests that wait for it or have it compute."""

    target: str
    name: str
    users: int = 0
    is_loaded: bool = False
    load: asyncio.Task[None] | None = None
    warned_of: Version | None = NO_VERSION  # the package's version that the log has told of


@dataclass(slots=True)
class Counts:
    """Since the start, for the trace and for people."""

    loads: int = 0
    unloads: int = 0
    refusals: int = 0  # loads answered 507
    deletions: int = 0
    downloads: int = 0


@dataclass(eq=False)
class Residency:
    """endpoint: its name. container_path: where the container sees the disk's folder."""

    endpoint: str
    api: ModelApi
    disk: Disk
    packages: Packages
    rules: Rules
    metrics: Metrics
    container_path: str
    clock: Callable[[], float]
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self._models: OrderedDict[str, Model] = OrderedDict()  # loaded or loading, the least recently used first
        self._leaving: dict[str, asyncio.Future[None]] = {}  # being unloaded
        self._tasks: set[asyncio.Task[None]] = set()
        self._lanes = asyncio.Semaphore(self.rules.loads_at_a_time)
        self._changed = asyncio.Condition()  # notified when a model may have become idle, or a load has ended
        self._room = asyncio.Lock()
        self._loading = 0  # of them, those that are on their way
        self._posting = 0  # loads that are with the container
        self._posts = 0  # those that ever were
        self._generation = 0  # of the container

    @property
    def loaded_count(self) -> int:
        return len(self._models) - self._loading

    @contextlib.asynccontextmanager
    async def use(self, target: str, deadline: float, record: Record) -> AsyncIterator[str]:
        """Have the model loaded, and keep it so while the block runs; gives the name that the container knows it by.
        deadline: of the clock. record: gets how the model was found, and the wait for it.

        Raises ModelNotReady at the deadline (the load goes on), ValidationError for a package that is not there or not
        one, ModelError for a load that failed, ServiceUnavailable.
        """
        name = hashed(target)
        model = self._models.get(name)
        if model is None:
            if self._loading >= LOADS_MAX:
                raise ServiceUnavailable(f"{LOADS_MAX} models are waiting to be loaded")
            model = self._models[name] = Model(target, name)
        model.users += 1
        try:
            if model.is_loaded:
                record.found = "hit"
                self._warn_of_change(model)
            else:
                record.found = "wait" if model.load else "miss"
                began = self.clock()
                try:
                    await self._wait_for_load(model, deadline)
                finally:
                    record.wait_ms = (self.clock() - began) * 1e3
            yield name
        finally:
            model.users -= 1
            if self._models.get(name) is model:
                self._models.move_to_end(name)
            self.disk.touch(name)
            if not self.rules.is_caching and model.is_loaded and not model.users:
                self._keep(asyncio.create_task(self._forget_uncached(model)))
            await self._notify()

    def lose_all(self) -> None:
        """The container is another one, with nothing loaded."""
        self._generation += 1
        for model in list(self._models.values()):
            self._forget(model)

    def lose_all_but(self, names: set[str]) -> None:
        """The container says that it has these, and so no others."""
        for model in list(self._models.values()):
            if model.is_loaded and model.name not in names:
                _log.warning("model.lost", model=model.target, name=model.name)
                self._forget(model)

    async def close(self) -> None:
        """End all loads and unloads that are under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Loading

    async def _wait_for_load(self, model: Model, deadline: float) -> None:
        if model.load is None:
            self._loading += 1
            model.load = self._keep(asyncio.create_task(self._load(model)))
            model.load.add_done_callback(lambda task: self._load_ended(model, task))
        task = model.load
        done, _ = await asyncio.wait({task}, timeout=max(0.0, deadline - self.clock()))
        if not done:
            raise ModelNotReady(
                f"The model {model.target!r} is still being downloaded or loaded; try again. A load may take "
                f"{self.rules.load_s:g} s."
            )
        if task.cancelled():
            raise ServiceUnavailable("The endpoint is being stopped.")
        task.result()

    def _load_ended(self, model: Model, task: asyncio.Task[None]) -> None:
        model.load = None
        self._loading -= 1
        if not model.is_loaded:
            if self._models.get(model.name) is model:
                del self._models[model.name]
            if not task.cancelled() and (error := task.exception()):
                _log.error("load.failed", model=model.target, name=model.name, error=error)

    async def _load(self, model: Model) -> None:
        async with self._lanes:
            try:
                await asyncio.wait_for(self._download_and_load(model), self.rules.load_s)
            except asyncio.TimeoutError:
                raise self._error(
                    0, f"the model was not downloaded and loaded within {self.rules.load_s:g} s"
                ) from None
            except Lost as error:
                raise self._error(0, f"the container was lost while the model was loaded: {error}") from None
            except AnswerTooLarge:
                raise self._error(0, "the container's answer to the load is too large") from None
            finally:
                await self._notify()

    async def _download_and_load(self, model: Model) -> None:
        while leaving := self._leaving.get(model.name):
            await asyncio.wait({leaving})
        await self._download(model)
        url = "/".join((self.container_path, "models", model.name, "model"))
        while True:
            generation, began = self._generation, self.clock()
            answer, was_alone = await self._post(model, url)
            if generation != self._generation:
                raise Lost("it was restarted")
            if answer.is_good or answer.status == 409:
                break
            if answer.status != 507:
                raise self._error(answer.status, answer.text)
            self.counts.refusals += 1
            _log.info("load.refused", model=model.target, name=model.name, status=507, loaded=self.loaded_count)
            # What was refused beside another load may fit by itself.
            if not await self.make_room(f"507 to the load of {model.target}") and was_alone:
                raise self._error(507, answer.text)
        if answer.status == 409:
            _log.warning("load.conflict", model=model.target, name=model.name, taken_for="loaded")
        took = self.clock() - began
        model.is_loaded = True
        self.counts.loads += 1
        self.metrics.record("ModelLoadingTime", took * 1e6)
        _log.info(
            "model.loaded", model=model.target, name=model.name, ms=round(took * 1e3, 1), loaded=self.loaded_count
        )

    async def _post(self, model: Model, url: str) -> tuple[Answer, bool]:
        """The container's answer to a load, and whether no other load was with it at any time of that."""
        was_alone = not self._posting
        self._posting += 1
        self._posts += 1
        ours = self._posts
        try:
            return await self.api.load(
                model.name, url, model.target, self.rules.load_s
            ), was_alone and ours == self._posts
        finally:
            self._posting -= 1
            await self._notify()

    async def _download(self, model: Model) -> None:
        """Have the package on the disk."""
        if self.disk.stored(model.name):
            self._warn_of_change(model)
            return
        package = self.packages.find(model.target)
        began = self.clock()
        unpacked = await self.disk.unpack(package)
        try:
            if unpacked.bytes > self.disk.limit_bytes:
                raise ValidationError(
                    f"The model {model.target!r} takes {unpacked.bytes} bytes of a disk of {self.disk.limit_bytes}."
                )
            while not self.disk.fits(unpacked.bytes):
                if not await self._make_disk_room(f"no room on the disk for {model.target}"):
                    raise self._error(507, "the disk is full, and every model on it is on its way")
            self.disk.put(model.name, unpacked)
        finally:
            await self.disk.drop(unpacked.path)
        took = self.clock() - began
        self.counts.downloads += 1
        self.metrics.record("ModelDownloadingTime", took * 1e6)
        ms = round(took * 1e3, 1)
        _log.info("model.downloaded", model=model.target, name=model.name, bytes=unpacked.bytes, ms=ms)

    # Making room

    async def make_room(self, why: str) -> bool:
        """Unload the least recently used model that nobody uses, once there is one. False: there will be none."""
        async with self._room:
            while True:
                if victim := self._idle():
                    await self._unload(victim, why)
                    return True
                if not self._posting and not any(model.is_loaded for model in self._models.values()):
                    return False
                async with self._changed:
                    await self._changed.wait()

    async def _make_disk_room(self, why: str) -> bool:
        """Delete the least recently used model that is not in memory; where all are, unload one. False: none can go."""
        in_memory = self._models.keys() | self._leaving.keys()
        name = next((name for name in self.disk.oldest() if name not in in_memory), None)
        if name is None:
            return await self.make_room(why)  # what is unloaded can be deleted when the caller comes again
        self.counts.deletions += 1
        _log.info("model.deleted", name=name, why=why)
        await self.disk.delete(name)
        return True

    def _idle(self) -> Model | None:
        return next((model for model in self._models.values() if model.is_loaded and not model.users), None)

    async def _unload(self, model: Model, why: str) -> None:
        self._forget(model)
        gone = self._leaving[model.name] = asyncio.get_running_loop().create_future()
        began = self.clock()
        try:
            answer = await self.api.unload(model.name, model.target, UNLOAD_S)
        except (Lost, AnswerTooLarge, asyncio.TimeoutError) as error:
            _log.error("unload.failed", model=model.target, name=model.name, error=str(error) or "no answer in time")
        else:
            took = self.clock() - began
            if answer.is_good or answer.status == 404:
                self.counts.unloads += 1
                self.metrics.record("ModelUnloadingTime", took * 1e6)
                _log.info("model.unloaded", model=model.target, name=model.name, ms=round(took * 1e3, 1), why=why)
            else:
                _log.error("unload.failed", model=model.target, name=model.name, status=answer.status)
        finally:
            del self._leaving[model.name]
            gone.set_result(None)
            await self._notify()

    async def _forget_uncached(self, model: Model) -> None:
        """Caching is off: the model has answered, and goes."""
        if model.is_loaded and not model.users:
            await self._unload(model, "caching is off")
            if model.name not in self._models and self.disk.stored(model.name):
                await self.disk.delete(model.name)

    def _forget(self, model: Model) -> None:
        model.is_loaded = False
        if model.load is None and self._models.get(model.name) is model:
            del self._models[model.name]

    def _warn_of_change(self, model: Model) -> None:
        """Said once for each change: the package is another one by now, or gone, and what is cached is served."""
        stored = self.disk.stored(model.name)
        now = self.packages.version(model.target)
        if stored and now not in (stored.version, model.warned_of):
            model.warned_of = now
            is_now = "another file" if now else "gone"
            _log.warning(
                "package.changed", model=model.target, name=model.name, package=is_now, served="the cached model"
            )

    def _error(self, status: int, message: str) -> ApiError:
        return ModelError(status, message, self.endpoint)

    def _keep(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._tasks.discard)
        return task

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
