"""SageMaker scripts, an `inference.py` with model_fn, predict_fn and so on or transform_fn, served as handlers.

What the SageMaker Inference Toolkit does with such a script, without the toolkit: its defaults, its content types, its
answers to exceptions. Better than there, each request of a batch is told of its own headers and fails alone; a script
that cannot be loaded fails the load; npy bodies with pickles in them, which would run code of the client, are refused.

    functions            default
    pre_model_fn         none; called with (model_dir) before model_fn
    model_fn             none; (model_dir) -> model
    model_warmup_fn      none; called with (model_dir, model) after model_fn
    transform_fn         (model, body, content_type, accept) -> answer, or (answer, content type); from the next three:
      input_fn           (body, content_type) -> array, from JSON, CSV, NPY, or NPZ (a sparse matrix; needs scipy)
      predict_fn         none; (array, model) -> prediction
      output_fn          (prediction, accept) -> answer, as JSON, CSV or NPY

Each may take one argument more, which is the context.
"""

import copy
import inspect
import io
import json
import os
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from headrace import log as logs
from headrace.errors import ModelError
from headrace.handler import EntryPoint, HandlerName
from headrace.mms.context import Context
from headrace.mms.metrics.metrics_store import MetricsStore

PROGRAM = "SAGEMAKER_PROGRAM"
SUBMIT_DIRECTORY = "SAGEMAKER_SUBMIT_DIRECTORY"
DEFAULT_ACCEPT = "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT"
FUNCTIONS = ("pre_model_fn", "model_fn", "model_warmup_fn", "transform_fn", "input_fn", "predict_fn", "output_fn")

JSON, CSV, NPY, NPZ, ANY = "application/json", "text/csv", "application/x-npy", "application/x-npz", "*/*"
_TEXT = (JSON, CSV)  # whose bodies a script gets as str

_log = logs.get("script")

Function = Callable[..., Any]


def find_script(directory: Path, environ: Mapping[str, str]) -> HandlerName | None:
    """The script of a model directory: in its `code`, in itself, or where SAGEMAKER_SUBMIT_DIRECTORY says.

    ModelError when SAGEMAKER_PROGRAM is no name of a script.
    """
    program = environ.get(PROGRAM) or "inference.py"
    name = HandlerName.parse(program.removesuffix(".py") + ".py")
    submitted = environ.get(SUBMIT_DIRECTORY, "")
    folders = [directory / "code", directory, *([Path(submitted)] if os.path.isabs(submitted) else [])]
    for folder in folders:
        place = folder / (name.folder or "")
        if (place / f"{name.module.replace('.', '/')}.py").is_file():
            return HandlerName(name.module, "", str(place))
    return None


class Script:
    """The functions of a script and the model that it made; handle() is what a handler's is."""

    def __init__(self, module: ModuleType, environ: Mapping[str, str]) -> None:
        self._functions = {name: found for name in FUNCTIONS if (found := _function(module, name)) is not None}
        self._default_accept = environ.get(DEFAULT_ACCEPT) or JSON
        self._model: Any = None
        parts = [name for name in ("input_fn", "predict_fn", "output_fn") if name in self._functions]
        if "model_fn" not in self._functions:
            raise ModelError(f"{module.__file__} has no model_fn(model_dir), which returns the model")
        if "transform_fn" in self._functions and parts:
            raise ModelError(f"{module.__file__} has transform_fn and also {', '.join(parts)}; keep one or the others")
        if "transform_fn" not in self._functions and "predict_fn" not in parts:
            raise ModelError(f"{module.__file__} has neither predict_fn(data, model) nor transform_fn")

    def load(self, context: Context) -> None:
        """Make the model. Raises what the script raises."""
        directory = context.system_properties["model_dir"]
        if "pre_model_fn" in self._functions:
            self._call("pre_model_fn", context, directory)
        self._model = self._call("model_fn", context, directory)
        if "model_warmup_fn" in self._functions:
            self._call("model_warmup_fn", context, directory, self._model)

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[Any]:
        """Answers by item. An exception is its item's answer: its text and traceback, status 500 or the exception's."""
        return [self._answer(item.get("body"), _item_context(context, index)) for index, item in enumerate(data)]

    def _answer(self, body: Any, context: Context) -> Any:
        try:
            content_type = _header(context, "content-type")
            accept = _header(context, "accept")
            if not accept or accept == ANY:
                accept = self._default_accept
            if content_type in _TEXT:
                body = body.decode("utf-8")
            result = self._transform(body, content_type, accept, context)
            answer, kind = (result[0], result[1]) if isinstance(result, tuple) else (result, accept)
            context.set_response_content_type(0, kind)
            return answer
        except MemoryError:
            raise
        except Exception as error:
            # Errors that a script wants to be seen carry these, as those of the toolkit do.
            status, phrase = getattr(error, "status_code", 500), getattr(error, "phrase", str(error))
            context.set_response_status(status, str(phrase))
            trace = traceback.format_exc()
            _log.error("script.failed", model=context.model_name, request=context.get_request_id(0), traceback=trace)
            return f"{getattr(error, 'message', error)}\n{trace}"

    def _transform(self, body: Any, content_type: str | None, accept: str, context: Context) -> Any:
        functions = self._functions
        if "transform_fn" in functions:
            return self._call("transform_fn", context, self._model, body, content_type, accept)
        if "input_fn" in functions:
            data = self._call("input_fn", context, body, content_type)
        else:
            data = decode(body, content_type)
        prediction = self._call("predict_fn", context, data, self._model)
        if "output_fn" in functions:
            return self._call("output_fn", context, prediction, accept)
        return self._encode(prediction, accept)

    def _encode(self, prediction: Any, accept: str) -> tuple[Any, str]:
        for kind in accept.split(","):
            name = kind.partition(";")[0].strip()
            encoder = _ENCODERS.get(self._default_accept if name == ANY else name)
            if encoder is not None:
                return encoder(prediction), self._default_accept if name == ANY else name
        raise ValueError(f"no answer in {accept}: without an output_fn there are {', '.join(_ENCODERS)}")

    def _call(self, name: str, context: Context, *arguments: Any) -> Any:
        function = self._functions[name]
        count = len(inspect.signature(function).parameters)
        if count not in (len(arguments), len(arguments) + 1):
            wanted = f"{len(arguments)}, or {len(arguments) + 1} with the context"
            raise TypeError(f"{name} takes {count} arguments; it must take {wanted}")
        return function(*arguments, context) if count > len(arguments) else function(*arguments)


def load_script(module: ModuleType, context: Context) -> EntryPoint:
    """The script's handler, its model loaded. Raises ModelError, and what the script raises."""
    script = Script(module, os.environ)
    script.load(context)
    return script.handle


def decode(body: Any, content_type: str | None) -> Any:
    """A body as an array: JSON and CSV from str, the others from bytes. ValueError for what is none."""
    if content_type == JSON:
        return np.array(json.loads(body))
    if content_type == CSV:
        return np.genfromtxt(io.StringIO(body), dtype=None, delimiter=",", encoding="utf-8")
    if content_type == NPY:
        return np.load(io.BytesIO(body), allow_pickle=False)
    if content_type == NPZ:
        from scipy import sparse  # Headrace has no need of it otherwise

        return sparse.load_npz(io.BytesIO(body))
    raise ValueError(f"content-type {content_type} is not read without an input_fn; send {', '.join(_READ)}")


def encode_json(value: Any) -> str:
    return json.dumps(value, default=_plain)


def encode_csv(value: Any) -> str:
    text = io.StringIO()
    np.savetxt(text, value, delimiter=",", fmt="%s")
    return text.getvalue()


def encode_npy(value: Any) -> bytes:
    content = io.BytesIO()
    np.save(content, value, allow_pickle=False)
    return content.getvalue()


_READ = (JSON, CSV, NPY, NPZ)
_ENCODERS: dict[str, Callable[[Any], Any]] = {JSON: encode_json, CSV: encode_csv, NPY: encode_npy}


def _plain(value: Any) -> Any:
    """Arrays and their like, of whichever library."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be said in JSON; write an output_fn")


def _function(module: ModuleType, name: str) -> Function | None:
    found = getattr(module, name, None)
    if found is not None and not callable(found):
        raise ModelError(f"{module.__file__}: {name} is a {type(found).__name__}; it must be a function")
    return found


def _header(context: Context, name: str) -> str | None:
    for key, value in context.get_all_request_header(0).items():
        if key.lower() == name and isinstance(value, str):
            return value
    return None


def _item_context(context: Context, index: int) -> Context:
    """The context as one request of a batch sees it: itself as number 0."""
    if len(context.request_processor) == 1:
        return context
    item = copy.copy(context)
    item.request_processor = [context.request_processor[index]]
    item.request_ids = {0: context.request_ids[index]}
    item.metrics = MetricsStore(item.request_ids, context.model_name)
    item.metrics.store = context.metrics.store  # all of them are emitted together
    return item
