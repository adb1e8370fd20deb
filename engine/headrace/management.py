"""The management API: what a request on /models means, and its answer in the form of Multi Model Server.

    POST    /models           register and load      query parameters, a form, or a JSON object (SageMaker's form)
    GET     /models           list                   ?limit&next_page_token
    GET     /models/NAME      describe
    PUT     /models/NAME      scale                  ?min_worker&synchronous
                              or other batches       ?batch_size&max_batch_delay&response_timeout
    DELETE  /models/NAME      unload
    GET     /models/NAME/explain   why it is or is not resident, what would have to go for it, its last errors
    GET     /overview         the server at a glance
    GET     /settings         every setting, and whether it can change while the server runs
    PUT     /settings         change some, by a JSON object of names and values
    GET     /console          a page that shows it
    POST    /drain            answer what was accepted, then end
    GET     /metrics          what is counted, for Prometheus
    OPTIONS /                 the API as an OpenAPI document, on either port; of a prediction's path: of that model

Where SageMaker's documents and Multi Model Server differ, the former hold: a failed load leaves nothing behind, a load
without memory is 507, a page that ends with the last model has no token, a trailing comma in the body is let pass.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from headrace import artifact, errors, log, parameters, placement
from headrace.config import Config, ModelSpec
from headrace.control import Message
from headrace.deployment import Deployment
from headrace.errors import (
    Forbidden,
    HeadraceError,
    InvalidModel,
    MethodNotAllowed,
    ModelError,
    ModelNotFound,
    NotFound,
    RequestError,
)
from headrace.explain import Explainer, iso_time
from headrace.overview import Overview
from headrace.parameters import Parameters
from headrace.registry import Model, Registry, check_name
from headrace.running_settings import RunningSettings
from headrace.scrape import Scrape

if TYPE_CHECKING:
    import tempfile

    from headrace.console import Console

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_JSON = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
_RUNTIMES = ("python", "python2", "python3")
_INTERNAL = "InternalServerException"
_NOT_STARTED = "Failed to start workers"  # all that Multi Model Server says of a failed load
_DOWNLOADS = 4  # at once
# (parameter, option of the loader, range)
_BATCHING = (("batch_size", "batch_size", 1, 65536), ("max_batch_delay", "batch_delay_ms", 0, 60_000))

_log = log.get("supervisor")

Answer = tuple[int, Mapping[str, Any]]  # status, document


class NotAllowedHere(MethodNotAllowed):
    """allow: the methods that would do, for the field of that name (RFC 9110, 15.5.6)."""

    def __init__(self, allow: str) -> None:
        super().__init__("Requested method is not allowed, please refer to API document.")
        self.allow = allow


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model lies. folder: made for what was fetched, else None."""

    path: str
    folder: "tempfile.TemporaryDirectory[str] | None" = None

    def clear(self) -> None:
        if self.folder is not None:
            self.folder.cleanup()


class Management:
    """explainer, overview: what the server says about itself; drain: has it end, and gives the answer."""

    def __init__(
        self,
        config: Config,
        registry: Registry,
        deployment: Deployment,
        scrape: Scrape,
        explainer: Explainer,
        overview: Overview,
        settings: RunningSettings,
        drain: Callable[[], dict[str, Any]],
    ) -> None:
        self._config = config
        self._registry = registry
        self._deployment = deployment
        self._scrape = scrape
        self._explainer = explainer
        self._overview = overview
        self._settings = settings
        self._drain = drain
        self._console: Console | None = None  # made when somebody looks at it
        self._places: dict[int, Place] = {}  # by the model's index
        self._downloads_at_once = asyncio.Semaphore(_DOWNLOADS)
        self._background: set[asyncio.Task[None]] = set()

    async def answer(self, message: Message) -> dict[str, Any]:
        """The fields of the reply to a "manage" message; never raises."""
        headers: dict[str, str] = {}
        try:
            if self._is_here(message) and (message["method"], message["path"].strip("/")) == ("GET", "metrics"):
                text = await self._scrape.text()
                return {"status": 200, "body": text, "content_type": METRICS_TYPE, "headers": {}}
            if (words := message["path"].strip("/").split("/"))[0] == "console" and self._is_here(message):
                return self._show(message["method"], words[1:])
            status, document = await self._dispatch(message)
            body = orjson.dumps(document, option=_JSON)
        except HeadraceError as error:
            status, body = error.status, errors.body(error.status, errors.type_of(error.status, error.code), str(error))
            headers = {"allow": error.allow} if isinstance(error, NotAllowedHere) else {}
        except Exception:
            _log.exception("management.failed", method=message.get("method"), path=message.get("path"))
            status, body = 500, errors.body(500, _INTERNAL, "internal error")
        return {"status": status, "body": body.decode(), "content_type": "application/json", "headers": headers}

    def _is_here(self, message: Message) -> bool:
        return self._config.single_port or message["port"] == "management"

    async def _dispatch(self, message: Message) -> Answer:
        method, words = message["method"], [word for word in message["path"].split("/") if word]
        if words in ([], ["api-description"]):
            if method != "OPTIONS" and not words:
                raise NotAllowedHere("OPTIONS")
            from headrace import openapi

            has_inference = self._config.single_port or message["port"] == "inference"
            return 200, openapi.document(has_inference, self._is_here(message))
        if method == "OPTIONS" and (name := self._predicted(words)) is not None:
            from headrace import openapi

            return 200, openapi.model_document(self._registry.get(name).name)
        if self._is_here(message) and words in (["overview"], ["drain"]):
            return await self._operate(method, words[0])
        if self._is_here(message) and words == ["settings"]:
            return await self._set(message)
        if self._is_here(message) and words[0] == "models" and words[2:] == ["explain"]:
            if method != "GET":
                raise NotAllowedHere("GET")
            return 200, await self._explainer.explain(words[1])
        if not self._is_here(message) or words[0] != "models" or len(words) > 2:
            raise NotFound("Requested resource is not found, please refer to API document.")
        if len(words) == 1:
            if method == "GET":
                return 200, self._list(parameters.query(message["query"]))
            if method == "POST":
                return await self._register(parameters.read(message))
            raise NotAllowedHere("GET, POST")
        if method not in ("DELETE", "GET", "PUT"):
            raise NotAllowedHere("DELETE, GET, PUT")
        model = self._registry.get(words[1])
        if method == "GET":
            return 200, self.describe(model)
        if method == "DELETE":
            try:
                await self._deployment.unload(model)
            finally:
                self._forget_download(model)
            return 200, {"status": f'Model "{model.name}" unregistered'}
        return await self._scale(model, parameters.read(message))

    async def _operate(self, method: str, what: str) -> Answer:
        if method != ("GET" if what == "overview" else "POST"):
            raise NotAllowedHere("GET" if what == "overview" else "POST")
        if what == "overview":
            return 200, await self._overview.document()
        self._check_guarded("end the server: set HEADRACE_TOKEN_FILE, or send it SIGTERM")
        return 202, self._drain()

    async def _set(self, message: Message) -> Answer:
        if message["method"] == "GET":
            return 200, self._settings.document()
        if message["method"] != "PUT":
            raise NotAllowedHere("GET, PUT")
        self._check_guarded("change its settings: set HEADRACE_TOKEN_FILE, or write them into a file and send SIGHUP")
        return 200, await self._settings.change(parameters.values(message), "PUT /settings")

    def _check_guarded(self, what: str) -> None:
        """Raises Forbidden where clients of models could do it, too."""
        if self._config.single_port and not self._config.token_file:
            raise Forbidden(f"whoever reaches the only port could {what}")

    def _show(self, method: str, words: list[str]) -> dict[str, Any]:
        """The console's page, or a part of it."""
        if method not in ("GET", "HEAD"):
            raise NotAllowedHere("GET, HEAD")
        if self._console is None:
            from headrace.console import Console

            self._console = Console()
        return self._console.answer("/".join(words))

    def _predicted(self, words: list[str]) -> str | None:
        """The model that a path asks a prediction of; None when it asks for none."""
        if words == ["invocations"]:
            return next((model.name for model in self._registry if model.is_default), "")
        if len(words) == 2 and words[0] != "models":
            return words[1] if words[0] == "predictions" else words[0]
        return words[1] if len(words) == 3 else None

    def _list(self, query: Mapping[str, str]) -> dict[str, Any]:
        models, token = self._registry.page(query.get("limit"), query.get("next_page_token"))
        listed = [{"modelName": model.name, "modelUrl": model.url} for model in models]
        return {"nextPageToken": token, "models": listed} if token else {"models": listed}

    async def _register(self, given: Parameters) -> Answer:
        url, name = given.get("url"), given.get("model_name")
        if not url:
            raise RequestError("Parameter url is required.")
        runtime = given.get("runtime")
        if runtime and runtime not in _RUNTIMES:
            raise RequestError(f"Invalid RuntimeType value: {runtime}; use one of {', '.join(_RUNTIMES)}")
        if name:
            self._registry.check_free(name)  # before anything is fetched
        asked = parameters.number(given, "initial_workers", 0)
        place = await self._place(url)
        model = self._enter(place, name, url, given.get("handler"), asked, _options(given), runtime=runtime)
        timeout_s = parameters.number(given, "response_timeout", 0)
        if timeout_s > 0:
            model.timeout_ms = 1000 * timeout_s
        if not parameters.flag(given, "synchronous", True):
            self._in_background(self._deployment.load(model))
            return 202, {"status": "Processing worker updates..."}
        try:
            await self._deployment.load(model)
        except BaseException as error:
            self._registry.remove(model)
            self._forget_download(model)
            if type(error) is ModelError:
                raise ModelError(f"{_NOT_STARTED}: {error}") from None
            raise
        return 200, {"status": "Workers scaled" if asked > 0 else f'Model "{model.name}" registered'}

    async def register_startup(self, spec: ModelSpec) -> Model:
        """Enter a model of the command line or the configuration file. Raises as register(), and DownloadFailed."""
        options = {"batch_size": spec.batch_size, "batch_delay_ms": spec.batch_delay_ms}
        given = {name: value for name, value in options.items() if value is not None}
        place = await self._place(spec.path) if artifact.is_url(spec.path) else Place(spec.path)
        model = self._enter(place, spec.name, spec.path, spec.handler, spec.workers or 0, given, is_startup=True)
        model.timeout_ms = spec.timeout_ms or model.timeout_ms
        if spec.max_workers is not None:
            most = min(spec.max_workers, self._config.workers) if model.isolation == "shared" else spec.max_workers
            model.most = max(model.least, most)
        return model

    async def _place(self, url: str) -> "Place":
        """Where the model at *url* lies, fetched if need be. Raises RequestError, ModelNotFound, DownloadFailed."""
        if not artifact.is_url(url):
            return Place(model_path(url, self._config))
        import tempfile

        from headrace import fetch

        config = self._config
        folder = tempfile.TemporaryDirectory(prefix="headrace-model-")
        try:
            async with self._downloads_at_once:
                rules = fetch.Rules(config.max_download_bytes, config.download_hosts, config.allowed_urls)
                return Place(await fetch.download(url, folder.name, rules), folder)
        except BaseException:
            folder.cleanup()
            raise

    def _enter(
        self,
        place: "Place",
        name: str | None,
        url: str,
        handler: str | None,
        asked: int,
        options: Mapping[str, Any],
        is_startup: bool = False,
        runtime: str | None = None,
    ) -> Model:
        """register(), and what was fetched for it lives as long as the model."""
        try:
            model = self.register(name, place.path, url, handler, asked, options, is_startup, runtime)
        except BaseException:
            place.clear()
            raise
        self._places[model.index] = place
        return model

    def _forget_download(self, model: Model) -> None:
        place = self._places.pop(model.index, None)
        if place is not None:
            place.clear()

    def register(
        self,
        name: str | None,
        path: str,
        url: str,
        handler: str | None,
        asked: int = 0,
        options: Mapping[str, Any] | None = None,
        is_startup: bool = False,
        runtime: str | None = None,
    ) -> Model:
        """Enter a model, placed but not loaded. Raises RequestError, Conflict, ModelError."""
        config = self._config
        if name:
            check_name(name)
        seen = artifact.look(path)
        name = name or seen.model_name
        if not name:
            raise InvalidModel(f"Model name is not defined. {url} has no manifest that does; give model_name")
        isolation = placement.isolation_of(seen, handler or None, config.isolation)
        count = asked if asked > 0 else 0 if seen.replicas else config.workers_per_model
        least, most = placement.replicas_of(
            seen, (count, count) if count else None, is_startup and not config.multi_model, isolation, config.workers
        )
        return self._registry.register(
            name,
            path,
            url,
            handler=handler or None,
            options=dict(options or {}),
            described={**seen.described, **({"runtime": runtime} if runtime else {})},
            isolation=isolation,
            least=least,
            most=most,
            is_counted=bool(count or seen.replicas),
            is_pinned=seen.pinned,
            is_startup=is_startup,
        )

    async def _scale(self, model: Model, given: Parameters) -> Answer:
        batching, timeout_s = _batching(given), parameters.number(given, "response_timeout", 0)
        if batching or timeout_s > 0:
            done = await self._settings.change_model(model, batching, 1000 * timeout_s if timeout_s > 0 else None)
            if not {"min_worker", "max_worker"} & given.keys():
                return 200, done
        least = parameters.number(given, "min_worker", 1)
        most = parameters.number(given, "max_worker", least)
        if least < 0:
            raise RequestError("min_worker cannot be less than 0.")
        if most < least:
            raise RequestError("max_worker cannot be less than min_worker.")
        if parameters.flag(given, "synchronous", False):
            await self._deployment.scale(model, least, most)
            return 200, {"status": "Workers scaled"}
        self._in_background(self._deployment.scale(model, least, most))
        return 202, {"status": "Processing worker updates..."}

    def describe(self, model: Model) -> dict[str, Any]:
        """The model as Multi Model Server describes it, with its state and, when it failed, the reason."""
        document: dict[str, Any] = {
            "modelName": model.name,
            **_shown(model, "modelVersion"),
            "modelUrl": model.url,
            **_shown(model, "engine"),
            "runtime": model.described.get("runtime", "python"),
            "minWorkers": model.least,
            "maxWorkers": model.most,
            "batchSize": model.options.get("batch_size") or model.info.get("max_batch_size") or 1,
            "maxBatchDelay": model.options.get("batch_delay_ms", model.info.get("max_batch_delay_ms", 0)),
            "loadedAtStartup": model.is_startup,
            "status": model.status,
            "workers": [
                {
                    "id": str(worker),
                    "startTime": iso_time(replica.since),
                    "status": "READY" if worker in model.residents() else replica.state.name,
                    "gpu": False,
                    "memoryUsage": self._deployment.memory_bytes(worker),
                }
                for worker, replica in sorted(model.replicas.items())
            ],
        }
        if model.reason or model.quarantine:
            document["reason"] = model.reason or model.quarantine
        return document

    def _in_background(self, work: Any) -> None:
        async def run() -> None:
            try:
                await work
            except HeadraceError as error:
                _log.error("management.failed", error=error)

        task = asyncio.create_task(run())
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def model_path(url: str, config: Config) -> str:
    """Where the model at *url* lies.

    With a model store: relative to it, or an absolute path inside it. In SageMaker mode without one: an absolute path.
    Raises RequestError, or ModelNotFound for a path that does not exist or leaves the store.
    """
    if ".." in url.split("/") or "\0" in url:
        raise ModelNotFound(f"Relative path is not allowed in url: {url}")
    store = config.model_store or ("/" if config.sagemaker else None)
    if store is None:
        raise RequestError(f"url {url!r}: this server has no model store; start it with --model-store DIR")
    if config.sagemaker and not os.path.isabs(url) and config.model_store is None:
        raise RequestError(f"url {url!r} must be an absolute path")
    store = os.path.abspath(store)
    path = os.path.normpath(os.path.join(store, url))
    real_store, real_path = os.path.realpath(store), os.path.realpath(path)  # a link in the store may lead out of it
    if os.path.commonpath((store, path)) != store or os.path.commonpath((real_store, real_path)) != real_store:
        raise ModelNotFound(f"url {url!r} is not inside the model store {store}")
    if not os.path.exists(path):
        raise ModelNotFound(f"Model not found in model store: {url}")
    return path


def _options(given: Parameters) -> dict[str, Any]:
    """For the worker's loader: only what was asked for."""
    options: dict[str, Any] = {}
    if "batch_size" in given:
        options["batch_size"] = max(1, parameters.number(given, "batch_size", 1))
    if "max_batch_delay" in given:
        options["batch_delay_ms"] = max(0, parameters.number(given, "max_batch_delay", 100))
    return options


def _batching(given: Parameters) -> dict[str, int]:
    """The same of a model that is loaded already, where nothing is taken for a default. Raises RequestError."""
    found = {}
    for word, name, low, high in _BATCHING:
        if word in given:
            value = parameters.number(given, word, -1)
            if not low <= value <= high:
                raise RequestError(f"{word} must be a whole number from {low} to {high}.")
            found[name] = value
    return found


def _shown(model: Model, name: str) -> dict[str, str]:
    return {name: model.described[name]} if name in model.described else {}
