"""From a model directory to something that answers requests.

Entry points, in the order they are tried:
1. the handler named when the model was registered, or by the manifest of its archive (manifest.py);
2. native: a `model.py` whose text mentions headrace;
3. the server's default handler (`default_service_handler`, SAGEMAKER_HANDLER);
4. a SageMaker script, `code/inference.py` or `inference.py`;
5. any other `model.py`: its headrace.Model may come from a module of the model's own.

A `model.py` alone proves nothing: many a PyTorch model keeps its network in one, to be served by a default handler. A
default handler comes before the script, since it is a framework's that reads the script by rules of its own.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from headrace import manifest, weights
from headrace.errors import InvalidModel, ModelError, OutOfMemory
from headrace.handler import HandlerName, HandlerServable, load_handler
from headrace.manifest import Manifest
from headrace.mms.context import Context
from headrace.model import Model
from headrace.model_settings import ModelSettings
from headrace.namespace import Canary, Isolation, Namespace, OwnProcess
from headrace.native import NativeServable
from headrace.request import Request
from headrace.script import find_script, load_script
from headrace.tuner import Tuner
from headrace.weight_store import Store

HANDLER_BATCH_DELAY_MS = 100.0  # `max_batch_delay` of Multi Model Server's management API


class Servable(Protocol):
    """A loaded model."""

    name: str
    max_batch_size: int  # most requests in a call of run()
    max_batch_bytes: int  # most that their bodies have together; a larger one runs alone
    is_pinned: bool  # never to be evicted
    max_batch_delay_ns: int  # how long the first of them may wait for company
    tuner: Tuner | None  # sets size and wait from what batches cost

    def run(self, requests: list[Request], /) -> None:
        """Answers every one of the requests, exactly once."""

    def decode(self, request: Request, /) -> Any:
        """request.array()"""

    def unload(self) -> Canary:
        """Forgets the model. The memory is free after a garbage collection; the canary says whether all of it is."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a model is to be loaded.

    max_batch_size, max_batch_bytes, max_batch_delay_ms: for native models that do not say (handlers: 1 request and
    100 ms, as Multi Model Server has it); batch_size, batch_delay_ms: asked for at registration, beat what the model
    says.
    """

    name: str
    isolation: str = "shared"  # or "process": the model has this process to itself
    max_batch_size: int = 32
    max_batch_bytes: int = 64 << 20
    max_batch_delay_ms: float = 0.0
    batch_size: int | None = None
    batch_delay_ms: float | None = None
    default_handler: str | None = None
    decode_input: bool = True
    retries_initialize: bool = False
    gpu_id: int | None = None
    max_request_bytes: int = 100 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """What to load. handler: None for a native model; is_script: it is a SageMaker script; manifest: of the archive."""

    handler: HandlerName | None
    manifest: Manifest | None
    is_script: bool = False


def find_entry(directory: Path, handler: str | None, default_handler: str | None) -> Entry:
    """Which entry point the directory has; runs no code of the model. ModelError names what was looked for."""
    if not directory.is_dir():
        raise ModelError(f"{directory} is not a directory")
    found = manifest.of_directory(directory)
    named = handler or manifest.handler(found)
    if named:
        return Entry(HandlerName.parse(named), found)
    source = directory / "model.py"
    is_there = source.is_file()
    if is_there and b"headrace" in source.read_bytes():
        return Entry(None, found)
    if default_handler:
        return Entry(HandlerName.parse(default_handler), found)
    script = find_script(directory, os.environ)
    if script is not None:
        return Entry(script, found, is_script=True)
    if is_there:
        return Entry(None, found)
    raise InvalidModel(
        f"Model handler is not defined. Its folder holds no model: looked for a handler in {manifest.PATH}, for "
        "model.py with a headrace.Model, for code/inference.py, and for a default handler in the server's settings"
    )


def load(
    directory: Path, handler: str | None, options: Options, namespace_index: int, store: Store | None = None
) -> Servable:
    """Loads the model in *directory*. A load that fails leaves nothing behind.

    handler: as registered, None to find the entry point; namespace_index: unique among this process's models;
    store: of weights that the model's replicas have in common, None for a model that is too small to have one.
    Raises ModelError, whose detail is the traceback from the model's own first frame on, and OutOfMemory.
    """
    directory = Path(os.path.abspath(directory))
    try:
        entry = find_entry(directory, handler, options.default_handler)
    except ModelError as problem:
        raise type(problem)(f"model {options.name}: {problem}") from None
    isolation = _isolate(directory, entry, options, namespace_index)
    error: BaseException
    try:
        return isolation.call(_load, directory, entry, options, isolation, store)
    except ModelError as exc:
        error = ModelError(f"model {options.name}: {exc}", exc.detail)
    except MemoryError as exc:
        error = OutOfMemory(f"model {options.name}: out of memory while loading" + (f": {exc}" if str(exc) else ""))
        error.detail = isolation.traceback(exc)
    except (Exception, SystemExit) as exc:
        reason = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
        reason = isolation.plain(reason)
        error = ModelError(f"model {options.name}: load failed: {reason}", isolation.traceback(exc))
    except BaseException as exc:
        error = exc
    # Out here no traceback keeps the model's frames, and with them its modules, alive.
    isolation.close()
    raise error


def _isolate(directory: Path, entry: Entry, options: Options, namespace_index: int) -> Isolation:
    paths = [directory, directory / "code"]
    if entry.handler is not None and entry.handler.folder is not None:
        paths.insert(0, directory / entry.handler.folder)
    if options.isolation == "process":
        return OwnProcess(directory, paths)
    return Namespace(namespace_index, paths)


def _load(directory: Path, entry: Entry, options: Options, isolation: Isolation, store: Store | None) -> Servable:
    if entry.handler is None:
        with weights.loading(store, directory):
            return _load_native(directory, options, isolation)
    with weights.loading(store):
        return _load_handler(directory, entry, entry.handler, options, isolation)


def _load_handler(
    directory: Path, entry: Entry, handler: HandlerName, options: Options, isolation: Isolation
) -> Servable:
    limits = _handler_limits(options)
    context = Context(options.name, str(directory), entry.manifest, limits["max_batch_size"], options.gpu_id)
    if entry.is_script:
        function = load_script(isolation.import_module(handler.module), context)
    else:
        function = load_handler(handler, isolation, context, options.name, options.retries_initialize)
    decode_input = options.decode_input and not entry.is_script  # a script reads bodies itself
    owns_process = options.isolation == "process"
    return HandlerServable(
        options.name, isolation, function, context, decode_input=decode_input, owns_process=owns_process, **limits
    )


def _load_native(directory: Path, options: Options, isolation: Isolation) -> Servable:
    module = isolation.import_module("model")
    cls = _only_model(module)
    settings = ModelSettings.of(cls, directory)
    model = cls()
    model.load(directory)
    servable = NativeServable(
        options.name,
        isolation,
        model,
        settings,
        max_request_bytes=options.max_request_bytes,
        **_native_limits(options, settings),
    )
    model.warm_up()
    return servable


def limit(servable: Servable, options: Options) -> None:
    """Have a loaded model's batches keep to *options*, which may differ from those that it was loaded with."""
    if isinstance(servable, NativeServable):
        servable.limit(**_native_limits(options, servable.settings))
    elif isinstance(servable, HandlerServable):
        servable.limit(**_handler_limits(options))


def _native_limits(options: Options, settings: ModelSettings) -> dict[str, Any]:
    """What is asked for goes before what the model says, and that before the server's defaults."""
    return {
        "max_batch_size": options.batch_size or settings.max_batch_size or options.max_batch_size,
        "max_batch_bytes": settings.max_batch_bytes or options.max_batch_bytes,
        "max_batch_delay_ms": _first(options.batch_delay_ms, settings.max_batch_delay_ms, options.max_batch_delay_ms),
        "target_latency_ms": settings.target_latency_ms if options.batch_delay_ms is None else None,
    }


def _handler_limits(options: Options) -> dict[str, Any]:
    delay_ms = _first(options.batch_delay_ms, HANDLER_BATCH_DELAY_MS)
    return {"max_batch_size": options.batch_size or 1, "max_batch_delay_ns": round(delay_ms * 1e6)}


def _only_model(module: ModuleType) -> type[Model]:
    """The Model subclass that *module* is about: its own, else one that it imported; not a base of another."""
    classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Model)]
    own = [cls for cls in classes if cls.__module__ == module.__name__]
    candidates = set(own or classes) - {Model}
    leaves = [cls for cls in candidates if not any(other is not cls and issubclass(other, cls) for other in candidates)]
    if len(leaves) == 1:
        return leaves[0]
    if not leaves:
        raise ModelError(f"{module.__file__} defines no subclass of headrace.Model")
    names = ", ".join(sorted(cls.__name__ for cls in leaves))
    raise ModelError(f"{module.__file__} defines several models: {names}; keep one, or let one be a base of the other")


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)
