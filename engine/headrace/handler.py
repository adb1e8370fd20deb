"""Handlers written for Multi Model Server: a function or a class `handle(data, context)`.

Differences from that server are on purpose: a body that does not decode is the client's 400 and leaves its batch-mates
alone; an exception ends no process; header values cannot inject lines.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import orjson

from headrace import log as logs
from headrace import media
from headrace.answers import plain_array
from headrace.errors import DecodeError, HeadraceError, ModelError, RequestError, UnsupportedMediaType
from headrace.mms.context import Context, RequestProcessor
from headrace.mms.service import emit_metrics
from headrace.multipart import parse_multipart, parse_urlencoded
from headrace.namespace import Canary, Isolation
from headrace.request import Request
from headrace.tuner import Tuner

_log = logs.get("handler")

_JSON = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
_ANY_BYTES = (1 << 64) - 1  # Multi Model Server bounds batches by their number of requests only

EntryPoint = Callable[[Any, Context], Any]


class HandlerFailed(HeadraceError):
    """What Multi Model Server answers when a handler fails."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class HandlerName:
    """`module[.py][:function]`; the module may lie in a folder (`sub/module.py:function`), or be dotted.

    folder: where the module is looked for first, relative to the model directory (or absolute); None for none.
    """

    module: str
    function: str
    folder: str | None

    @classmethod
    def parse(cls, text: str) -> "HandlerName":
        """ModelError when *text* names no module."""
        place, _, function = text.strip().partition(":")
        folder, module = os.path.split(place)
        module = module.removesuffix(".py")
        function = function or "handle"
        if not all(part.isidentifier() for part in (*module.split("."), function)):
            raise ModelError(f"handler {text!r} names no module; write module.py:function, such as service.py:handle")
        return cls(module, function, folder or None)


class HandlerServable:
    """A loaded handler. Answers in batches, each with one call of handle()."""

    is_pinned = False  # what its headrace.toml says, placement has read

    def __init__(
        self,
        name: str,
        isolation: Isolation,
        entry: EntryPoint,
        context: Context,
        max_batch_size: int,
        max_batch_delay_ns: int,
        decode_input: bool,
        owns_process: bool,
    ) -> None:
        self.name = name
        self.max_batch_bytes = _ANY_BYTES
        self.tuner: Tuner | None = None
        self._isolation = isolation
        self._entry: EntryPoint | None = entry
        self._context = context
        self.limit(max_batch_size, max_batch_delay_ns)
        self._decode_input = decode_input
        self._owns_process = owns_process

    def limit(self, max_batch_size: int, max_batch_delay_ns: int) -> None:
        """Have these limits hold from the next batch on; the handler's context says so, too."""
        self.max_batch_size = max_batch_size
        self.max_batch_delay_ns = max_batch_delay_ns
        self._context.system_properties["batch_size"] = max_batch_size

    def run(self, requests: list[Request]) -> None:
        """Answers each of *requests*, whatever the handler does.

        A batch whose call raised is run again member by member, so that only the culprit fails. SystemExit goes on to
        the worker when the model has the process to itself: a handler that exits wants a new one.
        """
        members: list[Request] = []
        data: list[dict[str, Any]] = []
        processors: list[RequestProcessor] = []
        for request in requests:
            try:
                inputs, kinds = decode_inputs(request, self._decode_input)
            except RequestError as error:
                request.fail(error)
                continue
            members.append(request)
            data.append(inputs)
            processors.append(RequestProcessor({**header_dict(request), **kinds}))
        if not members:
            return
        context = self._context
        context.start_call([request.id for request in members], processors)
        failure: HandlerFailed | None = None
        alone = exits = False
        exit_code = None
        results: Any = None
        try:
            results = self._isolation.call(self._call, data, context)
        except Exception as exc:
            if len(members) > 1 and not isinstance(exc, MemoryError):
                _log.warning("handler.batch_failed", model=self.name, requests=len(members), error=exc)
                alone = True
            else:
                failure = self._failure(exc, members)
        except SystemExit as exc:
            _log.error("handler.exit", model=self.name, code=exc.code, requests=len(members))
            failure, exits, exit_code = HandlerFailed(500, "Worker died."), True, exc.code
        if alone:
            for request in members:
                self.run([request])  # inputs are decoded anew, for the handler may have changed them
            return
        failure = failure or self._mismatch(results, len(members))
        for index, request in enumerate(members):
            if failure is not None:
                request.fail(failure)
            else:
                self._answer(request, results[index], processors[index])
        emit_metrics(context.metrics.store)
        context.start_call([], [])
        if exits and self._owns_process:
            raise SystemExit(exit_code)

    def unload(self) -> Canary:
        """Forgets the handler and its modules."""
        self._entry = None
        return self._isolation.close()

    def decode(self, request: Request) -> Any:
        """Handlers get their inputs as `data`."""
        raise UnsupportedMediaType(f"model {self.name} takes no arrays; it reads its requests itself")

    def _call(self, data: list[dict[str, Any]], context: Context) -> Any:
        if self._entry is None:
            raise RuntimeError(f"model {self.name} was unloaded")
        return self._entry(data, context)

    def _failure(self, exc: Exception, members: list[Request]) -> HandlerFailed:
        """The answer to an exception; logs what the client is not told."""
        if type(exc).__name__ == "PredictionException" and hasattr(exc, "error_code"):  # ours, or one that came along
            code = exc.error_code
            return HandlerFailed(code if _is_status(code) else 500, str(getattr(exc, "message", exc)))
        if isinstance(exc, MemoryError):
            _log.error("handler.memory", model=self.name, requests=len(members))
            return HandlerFailed(507, "Out of resources")
        text = self._isolation.traceback(exc)
        _log.error("handler.failed", model=self.name, request=members[0].id, requests=len(members), traceback=text)
        failure = HandlerFailed(503, "Prediction failed")
        failure.detail = text
        return failure

    def _mismatch(self, results: Any, count: int) -> HandlerFailed | None:
        """The answer to results that are not one for each of *count* requests."""
        if not isinstance(results, list):
            _log.error("handler.result", model=self.name, got=type(results).__name__, want="list")
            return HandlerFailed(503, "Invalid model predict output")
        if len(results) != count:
            _log.error("handler.result", model=self.name, got=len(results), want=count)
            return HandlerFailed(503, "number of batch response mismatched")
        return None

    def _answer(self, request: Request, result: Any, processor: RequestProcessor) -> None:
        try:
            body = encode_output(result)
        except ValueError as error:
            _log.error("handler.result", model=self.name, request=request.id, error=str(error))
            request.fail(HandlerFailed(503, "Unsupported model output data type."))
            return
        try:
            kind, fields = media.fields(None, processor.get_response_headers().items())
            fields = media.phrase_line(str(processor.get_response_status_phrase() or "")) + fields
        except ValueError as error:
            _log.error("handler.result", model=self.name, request=request.id, error=str(error))
            request.fail(HandlerFailed(500, f"Invalid model predict output: {error}"))
            return
        status = processor.get_response_status_code()
        request.reply(status if _is_status(status) else 500, kind, body, fields)


def load_handler(
    name: HandlerName, isolation: Isolation, context: Context, model: str, retries_initialize: bool = False
) -> EntryPoint:
    """Imports the handler's module and starts it as Multi Model Server does. To be run through isolation.call().

    A function is called once with (None, context). A class is made, and its initialize(context) called, whose exception
    is the load's. retries_initialize: as in that server it is logged instead, and the handler, which may try again at
    its first request, is served; MemoryError is the load's all the same.
    """
    module = isolation.import_module(name.module)
    function = getattr(module, name.function, None)
    if callable(function) and not isinstance(function, type):
        entry: EntryPoint = function
        entry(None, context)
        return entry
    service = _only_class(module, name)()
    initialize = getattr(service, "initialize", None)
    if initialize is not None:
        try:
            initialize(context)
        except Exception as exc:
            if isinstance(exc, MemoryError) or not retries_initialize:
                raise
            _log.warning("handler.initialize", model=model, traceback=isolation.traceback(exc))
    handle: EntryPoint = service.handle
    return handle


def _only_class(module: ModuleType, name: HandlerName) -> type[Any]:
    """The one class defined in *module* that has a method `handle`. ModelError when there is none or more than one."""
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and isinstance(getattr(value, "handle", None), (FunctionType, classmethod))
    ]
    if len(found) != 1:
        names = ", ".join(cls.__name__ for cls in found)
        others = f"several classes with a method `handle`: {names}; name a function" if found else "no class with one"
        raise ModelError(f"{module.__file__} has no function {name.function!r} and {others}")
    return found[0]


def decode_inputs(request: Request, decode: bool) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """(a handler's inputs by name, their content types by name). RequestError when a body is not what it says.

    decode: JSON becomes its value and text a str; else every input is a bytearray.
    """
    inputs: dict[str, Any] = {}
    kinds: dict[str, dict[str, str]] = {}
    if request.query:
        inputs.update(parse_urlencoded(request.query.encode("latin-1")))
    if request.kind == media.MULTIPART:
        for part in parse_multipart(request.body, request.content_type):
            is_file = part.filename is not None and part.content_type is not None
            inputs[part.name] = _decoded(part.content, part.content_type or "") if decode and is_file else part.content
            kinds[part.name] = {"content-type": part.content_type or "text/plain"}
    elif request.kind == media.FORM:
        inputs.update(parse_urlencoded(bytes(request.body)))
    else:
        body = bytearray(request.body)
        request.count_copy(len(body))
        content_type = request.content_type
        inputs["body"] = _decoded(body, content_type) if decode and body else body
        if content_type:
            kinds["body"] = {"content-type": content_type}
    return inputs, kinds


def _decoded(content: bytearray, content_type: str) -> Any:
    if content_type == "application/json":
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError:
            try:
                return json.loads(content)  # NaN, Infinity and integers past 64 bits, which handlers have been getting
            except (ValueError, RecursionError) as error:
                raise DecodeError(f"body is not JSON as its content-type says: {error}") from None
    if content_type.startswith("text/"):
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DecodeError(f"body of {content_type} is not UTF-8: {error}") from None
    return content


def header_dict(request: Request) -> dict[str, Any]:
    """Field values by the client's spelling; values of a repeated name are joined."""
    found: dict[str, Any] = {}
    for name, value in request.headers.raw:
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def encode_output(result: Any) -> Any:
    """bytes and the like as they are, str as UTF-8, else JSON indented by two, numpy's arrays and scalars as lists and
    numbers. ValueError for what JSON cannot say."""
    if isinstance(result, (bytes, bytearray)):
        return result
    if isinstance(result, memoryview):
        return result if result.c_contiguous else result.tobytes()
    if isinstance(result, str):
        return result.encode("utf-8", "replace")
    try:
        return orjson.dumps(result, option=_JSON, default=plain_array)
    except TypeError as error:
        first = str(error)
    try:
        return json.dumps(result, indent=2, default=plain_array).encode()  # integers past 64 bits, for one
    except (TypeError, ValueError, RecursionError):
        raise ValueError(f"result of type {type(result).__name__} cannot be said in JSON: {first}") from None


def _is_status(code: object) -> bool:
    return isinstance(code, int) and not isinstance(code, bool) and 200 <= code <= 999
