"""Running native models: requests in, one array through predict(), answers out.

    requests --decode--> groups of one row shape --predict--> rows --encode--> answers

Invariants
1. Every request of a batch is answered exactly once; one that cannot be decoded is answered alone, the others run.
2. When run() returns, nothing here refers to a request, its body or an array on it.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson

from headrace import _batch, _codec, media
from headrace import log as logs
from headrace.answers import Unanswerable, form_of, reply_array, reply_result
from headrace.errors import (
    DecodeError,
    HeadraceError,
    ModelError,
    OutOfMemory,
    RequestError,
    ShapeMismatch,
    UnsupportedMediaType,
)
from headrace.model import Model
from headrace.model_settings import ModelSettings
from headrace.multipart import parameter
from headrace.namespace import Canary, Isolation
from headrace.npz import pick_array, read_npz
from headrace.request import Request
from headrace.tuner import Tuner

_log = logs.get("model")

Array: TypeAlias = npt.NDArray[Any]

_VIEW_BYTES = 16 << 10  # from here on a copy into a batch costs more than the call of predict() that it may save
# Arrays that lie apart are gathered when that takes less than a quarter of a call: so it costs a fifth at most, and
# saves nearly a call each where the call's own cost prevails. Memory is copied at 4 GB/s at least, that is bytes a ns.
_COPY_BYTES_PER_NS = 4
_GATHER_SHARE = 4
_KEPT_BUFFER_BYTES = 16 << 20  # a batch buffer that grew larger is given back at once
# By dtype and size, for all models of the process: one runs at a time, and a buffer each would keep some KiB in each.
_buffers: dict[tuple[str, int], _codec.RowBuffer] = {}
_VIEWED = (media.NPY, media.RAW)  # bodies that an array can lie in
_READ = "application/json, application/x-npy, application/x-npz, text/csv"


class _Group:
    """Members of a batch whose rows have one shape, so that they run together."""

    __slots__ = ("array", "buffer", "forms", "members", "rows")

    def __init__(self, buffer: _codec.RowBuffer | None, array: Array | None = None) -> None:
        self.buffer = buffer
        self.array = array
        self.members: list[Request] = []
        self.rows: list[int] = []
        self.forms: list[int] = []  # of the answers

    def add(self, request: Request, rows: int, form: int) -> None:
        self.members.append(request)
        self.rows.append(rows)
        self.forms.append(form)


class NativeServable:
    """A loaded native model.

    max_batch_size bounds the rows in a call of predict() (only a single larger request exceeds it) and the requests in
    a call of run(), whose bodies max_batch_bytes bounds likewise. target_latency_ms: None for a fixed delay.
    """

    def __init__(
        self,
        name: str,
        isolation: Isolation,
        model: Model,
        settings: ModelSettings,
        max_batch_size: int,
        max_batch_bytes: int,
        max_batch_delay_ms: float,
        target_latency_ms: float | None,
        max_request_bytes: int,
    ) -> None:
        self.name = name
        self.settings = settings
        self.is_pinned = settings.pinned
        self.limit(max_batch_size, max_batch_bytes, max_batch_delay_ms, target_latency_ms)
        self._isolation = isolation
        self._model: Model | None = model
        kind = type(model)
        self._handles = kind.handle is not Model.handle
        if not self._handles and kind.predict is Model.predict:
            raise ModelError(f"class {kind.__qualname__} defines neither predict(self, x) nor handle(self, requests)")
        self._function: Callable[[Any], Any] | None = model.handle if self._handles else model.predict
        self._dtype = _dtype(settings.dtype, kind)
        self._shape = settings.shape
        self._max_request_bytes = max_request_bytes
        # A number takes two bytes of JSON or CSV at least: `0,`.
        self._buffer_bytes = (max_request_bytes // 2 + 1) * self._dtype.itemsize
        self._buffer_key = self._dtype.str, self._buffer_bytes
        self._call_ns = 0  # of predict() for one large row: moving mean, 0 = not seen yet
        self._logged = ""  # the traceback logged last in this batch

    def limit(
        self, max_batch_size: int, max_batch_bytes: int, max_batch_delay_ms: float, target_latency_ms: float | None
    ) -> None:
        """Have these limits hold from the next batch on."""
        self.max_batch_size = max_batch_size
        self.max_batch_bytes = max_batch_bytes
        self.max_batch_delay_ns = round(max_batch_delay_ms * 1e6)
        self.tuner: Tuner | None = None
        if target_latency_ms is not None and max_batch_size > 1:
            self.tuner = Tuner(self.name, round(target_latency_ms * 1e6), max_batch_size)

    def run(self, requests: list[Request]) -> None:
        """Answers each of *requests*, whatever the model does. Only KeyboardInterrupt comes out."""
        self._logged = ""
        if self._handles:
            self._attempt(requests, 0, len(requests), lambda first, last: self._call_handle(requests[first:last]))
        else:
            for group in self._gather(requests):
                self._run_group(group)

    def decode(self, request: Request) -> Array:
        """The request's rows, (rows, *shape) of the model's dtype; read-only where it is a view on the body."""
        try:
            x = self._view(request) if request.kind in _VIEWED else None
            if x is None or x.dtype != self._dtype or x.ndim == 0:
                buffer = self._new_buffer()
                self._append(buffer, request)
                x = buffer.array()
        except _codec.ShapeMismatch as error:
            raise ShapeMismatch(str(error)) from None
        except _codec.DecodeError as error:
            raise DecodeError(str(error)) from None
        self._check_shape(x)
        return x

    def unload(self) -> Canary:
        """Runs the model's unload() and forgets the model and its modules. An exception of unload() is logged."""
        model, self._model, self._function = self._model, None, None
        if model is not None:
            try:
                self._isolation.call(model.unload)
            except (Exception, SystemExit) as exc:
                _log.error("model.unload", model=self.name, traceback=self._isolation.traceback(exc))
        return self._isolation.close()

    # Decoding

    def _gather(self, requests: list[Request]) -> list[_Group]:
        """Decodes the requests into groups; answers those that cannot be."""
        groups: list[_Group] = []
        views: list[tuple[Request, Array, int]] = []
        alone = len(requests) == 1
        for request in requests:
            try:
                form = form_of(request)
                x = self._view(request) if request.kind in _VIEWED else None
                if x is not None and x.dtype == self._dtype and x.ndim and (alone or x.nbytes >= _VIEW_BYTES):
                    views.append((request, x, form))
                else:
                    self._add(groups, request, form)
            except RequestError as error:
                request.fail(error)
            except _codec.ShapeMismatch as error:
                request.fail(ShapeMismatch(str(error)))
            except _codec.DecodeError as error:
                request.fail(DecodeError(str(error)))
            except MemoryError:
                request.fail(OutOfMemory(f"no memory to decode a body of {len(request.body)} bytes"))
        return [*self._lay_out(views), *groups] if views else groups

    def _lay_out(self, views: list[tuple[Request, Array, int]]) -> list[_Group]:
        """Groups of large arrays: single rows of one shape run together, as views where they lie at one stride."""
        groups: list[_Group] = []
        by_shape: dict[tuple[int, ...], list[tuple[Request, Array, int]]] = {}
        for view in views:
            x = view[1]
            if len(x) == 1 and x.flags.c_contiguous:
                by_shape.setdefault(x.shape, []).append(view)
            else:
                groups.append(_Group(None, x))
                groups[-1].add(view[0], len(x), view[2])
        for members in by_shape.values():
            runs = _batch.runs([x for _, x, _ in members])
            if len(runs) > 1 and _GATHER_SHARE * members[0][1].nbytes < self._call_ns * _COPY_BYTES_PER_NS:
                runs = [(np.concatenate([x for _, x, _ in members]), list(range(len(members))))]
                for request, x, _ in members:
                    request.count_copy(x.nbytes)
            for x, order in runs:
                group = _Group(None, x)
                for index in order:
                    group.add(members[index][0], 1, members[index][2])
                groups.append(group)
        return groups

    def _add(self, groups: list[_Group], request: Request, form: int) -> None:
        """Adds the request's rows to the first group that takes them, else to a new one."""
        for group in groups:
            if group.buffer is not None:
                try:
                    rows = self._append(group.buffer, request)
                except (_codec.ShapeMismatch, _codec.BufferFull):
                    continue
                group.add(request, rows, form)
                return
        if groups:
            buffer = self._new_buffer()
        else:
            buffer = _buffers.get(self._buffer_key) or _buffers.setdefault(self._buffer_key, self._new_buffer())
            buffer.reset()
        group = _Group(buffer)
        group.add(request, self._append(buffer, request), form)
        groups.append(group)

    def _append(self, buffer: _codec.RowBuffer, request: Request) -> int:
        """Decodes the request's rows to the end of *buffer*, which a failure leaves as it was."""
        kind = request.kind
        if kind == media.JSON:
            try:
                return buffer.append_json(request.body)
            except _codec.NotNumbers as fault:
                return buffer.append_array(self._read_values(request, fault))
        if kind == media.CSV:
            return buffer.append_csv(request.body, _has_header(request.content_type))
        x = self._view(request)
        rows = buffer.append_array(x)
        request.count_copy(x.size * self._dtype.itemsize)
        return rows

    def _view(self, request: Request) -> Array:
        """The numbers of an npy, npz or raw body, read-only and where they lie if they can be."""
        if request.kind == media.NPY:
            return _codec.view_npy(request.body)
        if request.kind == media.NPZ:
            return pick_array(read_npz(request.body, self._max_request_bytes))
        if request.kind == media.RAW and self._shape is not None:
            return _codec.view_raw(request.body, self._dtype, self._shape)
        also = ", application/octet-stream" if self._shape is not None else ""
        sent = request.content_type or "none"
        raise UnsupportedMediaType(f"content-type {sent} is not read by model {self.name}; send one of {_READ}{also}")

    def _read_values(self, request: Request, fault: _codec.NotNumbers) -> Array:
        """What JSON says beyond plain numbers: null, booleans, numbers in strings. Else DecodeError as in *fault*."""
        try:
            value = orjson.loads(request.body)
        except orjson.JSONDecodeError as error:
            raise DecodeError(f"body is not JSON: {error}") from None
        if isinstance(value, dict):
            value = value.get("instances", value.get("inputs"))
        if not isinstance(value, list):
            raise DecodeError('JSON must be {"instances": [row, ...]}, {"inputs": [row, ...]} or a bare [row, ...]')
        try:
            return np.asarray(value, self._dtype)
        except (ValueError, TypeError, OverflowError):
            raise DecodeError(str(fault)) from None

    def _check_shape(self, x: Array) -> None:
        shape = x.shape[1:]
        if self._shape is not None and shape != self._shape and len(x):  # no rows have no shape
            raise ShapeMismatch(f"model {self.name} takes rows of shape {self._shape}, got rows of shape {shape}")

    def _new_buffer(self) -> _codec.RowBuffer:
        return _codec.RowBuffer(self._dtype, self._buffer_bytes)

    # Calling

    def _run_group(self, group: _Group) -> None:
        x = group.array if group.buffer is None else group.buffer.array()
        assert x is not None
        members = group.members
        try:
            self._check_shape(x)
        except ShapeMismatch as error:
            for request in members:
                request.fail(error)
            return
        if len(members) == 1:
            begun_ns = time.monotonic_ns()
            self._attempt(members, 0, 1, lambda first, last: [self._call_predict(x)], group.forms)
            if group.buffer is None and len(x) == 1:
                took_ns = time.monotonic_ns() - begun_ns
                self._call_ns = (7 * self._call_ns + took_ns) // 8 if self._call_ns else took_ns
        else:
            offsets = [0, *itertools.accumulate(group.rows)]

            def compute(first: int, last: int) -> list[Array]:
                start = offsets[first]
                y = self._call_predict(x[start : offsets[last]])
                return [y[offsets[at] - start : offsets[at + 1] - start] for at in range(first, last)]

            first = 0
            for last in range(1, len(members) + 1):
                if last == len(members) or offsets[last + 1] - offsets[first] > self.max_batch_size:
                    self._attempt(members, first, last, compute, group.forms)
                    first = last
        if x.nbytes > _KEPT_BUFFER_BYTES and group.buffer is _buffers.get(self._buffer_key):
            _buffers.pop(self._buffer_key, None)

    def _attempt(
        self,
        members: list[Request],
        first: int,
        last: int,
        compute: Callable[[int, int], Sequence[Any]],
        forms: list[int] | None = None,
    ) -> None:
        """Answers members first to last - 1 with what compute(first, last) returns, one result for each.

        After an exception the model is asked again for each of them, so that only the culprit fails.
        """
        try:
            results = compute(first, last)
        except (Exception, SystemExit) as exc:
            if last - first == 1 or not self.settings.retry_members or isinstance(exc, Unanswerable):
                self._fail(members[first:last], exc)
                return
        else:
            for at in range(first, last):
                result = results[at - first]
                try:
                    if forms is not None:
                        reply_array(members[at], result, forms[at])
                    elif isinstance(result, BaseException):
                        self._fail(members[at : at + 1], result)
                    else:
                        reply_result(members[at], result)
                except Exception as exc:
                    self._fail(members[at : at + 1], exc)
            return
        for at in range(first, last):
            self._attempt(members, at, at + 1, compute, forms)

    def _call_predict(self, x: Array) -> Array:
        if not len(x):
            return np.empty(0, self._dtype)  # many a model cannot take no rows
        y: Any = self._isolation.call(self._loaded(), x)
        if type(y) is not np.ndarray:
            try:
                y = np.asarray(y)
            except (
                TypeError,
                ValueError,
                RuntimeError,
                Warning,
            ) as error:  # before numpy 1.24 rows of unequal length warn
                raise Unanswerable(f"predict() returned {type(y).__name__}, which makes no array: {error}") from None
        if y.ndim == 0 or len(y) != len(x):
            got = f"an array of shape {y.shape}" if y.ndim else f"one {y.dtype} without a first axis"
            raise Unanswerable(f"predict() returned {got} for {len(x)} rows; it must return as many rows as it got")
        rows: Array = y
        return rows

    def _call_handle(self, requests: list[Request]) -> Sequence[Any]:
        results: Any = self._isolation.call(self._loaded(), requests)
        if not isinstance(results, (list, tuple, np.ndarray)):
            raise Unanswerable(f"handle() returned {type(results).__name__}; it must return a list of answers")
        if len(results) != len(requests):
            raise Unanswerable(f"handle() returned {len(results)} answers to {len(requests)} requests")
        return list(results)

    def _loaded(self) -> Callable[[Any], Any]:
        if self._function is None:
            raise RuntimeError(f"model {self.name} was unloaded")
        return self._function

    def _fail(self, requests: Sequence[Request], exc: BaseException) -> None:
        """Answers with the error that *exc* stands for; logs what clients are not told, a traceback once a batch."""
        if isinstance(exc, HeadraceError):
            for request in requests:
                request.fail(exc)
        elif isinstance(exc, Unanswerable):
            for request in requests:
                _log.error("model.result", model=self.name, request=request.id, error=exc)
                request.fail(HeadraceError(f"model {self.name}: {exc}"))
        else:
            text = self._isolation.traceback(exc)
            for request in requests:
                news = {} if text == self._logged else {"traceback": text}
                self._logged = text
                _log.error("model.failed", model=self.name, request=request.id, error=exc, **news)
                if isinstance(exc, MemoryError):
                    request.fail(OutOfMemory(f"out of memory in model {self.name}, request {request.id}"))
                else:
                    error = HeadraceError(f"internal error in model {self.name}, request {request.id}")
                    error.detail = text
                    request.fail(error)
        exc.__traceback__ = None  # a model may keep the exception, and would keep its arrays on shared memory with it


def _has_header(content_type: str) -> bool:
    """Whether text/csv says `header=present` (RFC 4180, 3); without it every line is a row."""
    return "header" in content_type.lower() and (parameter(content_type, "header") or "").lower() == "present"


def _dtype(value: Any, model: type[Model]) -> np.dtype[Any]:
    """A dtype that batches can hold. ModelError otherwise."""
    try:
        return _codec.RowBuffer(value, 64).dtype
    except (TypeError, ValueError) as error:
        raise ModelError(f"class {model.__qualname__}: dtype = {value!r} is wrong; {error}") from None
