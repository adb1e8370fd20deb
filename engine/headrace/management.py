"""The management API: what a request on /models means, and its answer in the form of Multi Model Server.

    POST   /models           register and load      query parameters, or a JSON object (SageMaker's form)
    GET    /models           list                   ?limit&next_page_token
    GET    /models/NAME      describe
    PUT    /models/NAME      scale                  ?min_worker
    DELETE /models/NAME      unload
    GET    /metrics          what is counted, for Prometheus

Where SageMaker's documents and Multi Model Server differ, the former hold: a failed load leaves nothing behind, a load
without memory is 507, a page that ends with the last model has no token, a trailing comma in the body is let pass.
"""

import asyncio
import os
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import orjson

from headrace import artifact, errors, log, placement
from headrace.config import Config, ModelSpec
from headrace.control import Message
from headrace.deployment import Deployment
from headrace.errors import HeadraceError, MethodNotAllowed, ModelNotFound, NotFound, RequestError
from headrace.registry import Model, Registry, check_name

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_JSON = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
_TRAILING_COMMA = re.compile(rb",(\s*[}\]])")
_RUNTIMES = ("python", "python2", "python3")
_INTERNAL = "InternalServerException"

_log = log.get("supervisor")

Answer = tuple[int, Mapping[str, Any]]  # status, document


class Management:
    def __init__(self, config: Config, registry: Registry, deployment: Deployment) -> None:
        self._config = config
        self._registry = registry
        self._deployment = deployment
        self._background: set[asyncio.Task[None]] = set()

    async def answer(self, message: Message) -> dict[str, Any]:
        """The fields of the reply to a "manage" message; never raises."""
        try:
            if self._is_here(message) and (message["method"], message["path"].strip("/")) == ("GET", "metrics"):
                text = await self._deployment.metrics()
                return {"status": 200, "body": text, "content_type": METRICS_TYPE, "headers": {}}
            status, document = await self._dispatch(message)
            body = orjson.dumps(document, option=_JSON)
        except HeadraceError as error:
            status, body = error.status, errors.body(error.status, errors.TYPES.get(error.code, _INTERNAL), str(error))
        except Exception:
            _log.exception("management.failed", method=message.get("method"), path=message.get("path"))
            status, body = 500, errors.body(500, _INTERNAL, "internal error")
        return {"status": status, "body": body.decode(), "content_type": "application/json", "headers": {}}

    def _is_here(self, message: Message) -> bool:
        return self._config.single_port or message["port"] == "management"

    async def _dispatch(self, message: Message) -> Answer:
        method, words = message["method"], [word for word in message["path"].split("/") if word]
        if not self._is_here(message) or not words or words[0] != "models" or len(words) > 2:
            raise NotFound(f"Requested resource is not found: {message['path']}")
        query = dict(parse_qsl(message["query"], keep_blank_values=True))
        if len(words) == 1:
            if method == "GET":
                return 200, self._list(query)
            if method == "POST":
                return await self._register(_parameters(message, query))
        else:
            model = self._registry.get(words[1])
            if method == "GET":
                return 200, describe(model)
            if method == "DELETE":
                await self._deployment.unload(model)
                return 200, {"status": f'Model "{model.name}" unregistered'}
            if method == "PUT":
                return await self._scale(model, query)
        raise MethodNotAllowed(f"Requested method is not allowed: {method}")

    def _list(self, query: Mapping[str, str]) -> dict[str, Any]:
        models, token = self._registry.page(query.get("limit"), query.get("next_page_token"))
        listed = [{"modelName": model.name, "modelUrl": model.url} for model in models]
        return {"nextPageToken": token, "models": listed} if token else {"models": listed}

    async def _register(self, parameters: Mapping[str, str]) -> Answer:
        url = parameters.get("url")
        if not url:
            raise RequestError("Parameter url is required.")
        runtime = parameters.get("runtime") or "python"
        if runtime not in _RUNTIMES:
            raise RequestError(f"Invalid RuntimeType value: {runtime}; use one of {', '.join(_RUNTIMES)}")
        path = model_path(url, self._config)
        asked = _number(parameters, "initial_workers", 0)
        model = self.register(
            parameters.get("model_name"), path, url, parameters.get("handler"), asked, _options(parameters)
        )
        timeout_s = _number(parameters, "response_timeout", 0)
        if timeout_s > 0:
            model.timeout_ms = 1000 * timeout_s
        if parameters.get("synchronous", "true").lower() == "false":
            self._in_background(self._deployment.load(model))
            return 202, {"status": "Processing worker updates..."}
        try:
            await self._deployment.load(model)
        except BaseException:
            self._registry.remove(model)
            raise
        return 200, {"status": "Workers scaled" if asked > 0 else f'Model "{model.name}" registered'}

    def register_startup(self, spec: ModelSpec) -> Model:
        """Enter a model of the command line or the configuration file. Raises as register() does."""
        options = {"batch_size": spec.batch_size, "batch_delay_ms": spec.batch_delay_ms}
        given = {name: value for name, value in options.items() if value is not None}
        model = self.register(spec.name, spec.path, spec.path, spec.handler, spec.workers or 0, given, is_startup=True)
        model.timeout_ms = spec.timeout_ms or model.timeout_ms
        return model

    def register(
        self,
        name: str | None,
        path: str,
        url: str,
        handler: str | None,
        asked: int = 0,
        options: Mapping[str, Any] | None = None,
        is_startup: bool = False,
    ) -> Model:
        """Enter a model, placed but not loaded. Raises RequestError, Conflict, ModelError."""
        config = self._config
        if name:
            check_name(name)
        seen = artifact.look(path)
        name = name or seen.model_name
        if not name:
            raise RequestError(f"Parameter model_name is required: {url} has no manifest that names the model")
        isolation = placement.isolation_of(seen, handler or None, config.isolation)
        wanted = asked if asked > 0 else seen.replicas or config.workers_per_model or None
        return self._registry.register(
            name,
            path,
            url,
            handler=handler or None,
            options=dict(options or {}),
            isolation=isolation,
            wanted=placement.replicas_of(seen, wanted, is_startup, isolation, config.workers),
            timeout_ms=config.timeout_ms,
            is_startup=is_startup,
        )

    async def _scale(self, model: Model, query: Mapping[str, str]) -> Answer:
        wanted = _number(query, "min_worker", 1)
        if _number(query, "max_worker", wanted) < wanted:
            raise RequestError("max_worker cannot be less than min_worker.")
        if query.get("synchronous", "false").lower() == "true":
            await self._deployment.scale(model, wanted)
            return 200, {"status": "Workers scaled"}
        self._in_background(self._deployment.scale(model, wanted))
        return 202, {"status": "Processing worker updates..."}

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
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", url):
        raise RequestError(f"url {url!r}: models are not fetched; put the model on a disk of this machine")
    if ".." in url.split("/") or "\0" in url:
        raise ModelNotFound(f"Relative path is not allowed in url: {url!r}")
    store = config.model_store or ("/" if config.sagemaker else None)
    if store is None:
        raise RequestError(f"url {url!r}: this server has no model store; start it with --model-store DIR")
    if config.sagemaker and not os.path.isabs(url) and config.model_store is None:
        raise RequestError(f"url {url!r} must be an absolute path")
    store = os.path.abspath(store)
    path = os.path.normpath(os.path.join(store, url))
    if os.path.commonpath((store, path)) != store:
        raise ModelNotFound(f"url {url!r} is not inside the model store {store}")
    if not os.path.exists(path):
        raise ModelNotFound(f"Model not found at: {url}")
    return path


def describe(model: Model) -> dict[str, Any]:
    """The model as Multi Model Server describes it, with its state and, when it failed, the reason."""
    document: dict[str, Any] = {
        "modelName": model.name,
        "modelUrl": model.url,
        "runtime": "python",
        "minWorkers": model.wanted,
        "maxWorkers": model.wanted,
        "batchSize": model.options.get("batch_size") or model.info.get("max_batch_size") or 1,
        "maxBatchDelay": model.options.get("batch_delay_ms") or 0,
        "loadedAtStartup": model.is_startup,
        "status": model.state.value,
        "workers": [
            {
                "id": str(worker),
                "startTime": _iso_time(replica.since),
                "status": "READY" if worker in model.residents() else replica.state.name,
                "gpu": False,
            }
            for worker, replica in sorted(model.replicas.items())
        ],
    }
    if model.reason:
        document["reason"] = model.reason
    return document


def _parameters(message: Message, query: Mapping[str, str]) -> Mapping[str, str]:
    """Those of a registration as text: a JSON body's, else the query's. Raises RequestError."""
    if message["content_type"].split(";")[0].strip().lower() != "application/json":
        # Minutes here, seconds in JSON: Multi Model Server has it so.
        minutes = _number(query, "response_timeout", 0)
        return {**query, "response_timeout": str(60 * minutes)}
    body = message["body"].encode("latin-1")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            document = orjson.loads(_TRAILING_COMMA.sub(rb"\1", body))
        except orjson.JSONDecodeError as error:
            raise RequestError(f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise RequestError(f"the body must be a JSON object, not {type(document).__name__}")
    return {key: _text(value) for key, value in document.items() if value is not None}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _options(parameters: Mapping[str, str]) -> dict[str, Any]:
    """For the worker's loader: only what was asked for."""
    options: dict[str, Any] = {}
    if "batch_size" in parameters:
        options["batch_size"] = max(1, _number(parameters, "batch_size", 1))
    if "max_batch_delay" in parameters:
        options["batch_delay_ms"] = max(0, _number(parameters, "max_batch_delay", 100))
    return options


def _number(parameters: Mapping[str, str], name: str, default: int) -> int:
    """A whole number; whatever does not parse means the default, as in Multi Model Server."""
    text = parameters.get(name, "")
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else default


def _iso_time(seconds: float) -> str:
    ms = int(seconds * 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000)) + f".{ms % 1000:03d}Z"
