"""Answers of native models: which form a client wants, and how a result is put into it."""

from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from headrace import _codec, media
from headrace.errors import RequestError
from headrace.model import Response
from headrace.request import Request

_IN_PLACE_BYTES = 32 << 10  # answers estimated at more are made in the request's slot; below, a copy is cheaper
_WRITTEN = "application/json, application/x-npy, text/csv"
_FORMS = {
    media.JSON: media.JSON,
    media.NPY: media.NPY,
    media.CSV: media.CSV,
    media.ANY: media.JSON,
    media.NONE: media.JSON,
}
_RANGES = {
    "*/*": media.JSON,
    "application/*": media.JSON,
    "application/json": media.JSON,
    "application/x-npy": media.NPY,
    "text/*": media.CSV,
    "text/csv": media.CSV,
}


class NotAcceptable(RequestError):
    """An Accept that rules out every form that there is."""

    status = 406


class Unanswerable(Exception):
    """What a model returned is no answer; says why, for the log and the client."""


def form_of(request: Request) -> int:
    """The kind of answer that the client wants: media.JSON, NPY or CSV. Else NotAcceptable."""
    return _FORMS.get(request.accept_kind) or negotiate(request.accept)


def negotiate(accept: str) -> int:
    """What an Accept field prefers among the forms that there are (RFC 9110, 12.5.1). Else NotAcceptable."""
    best, best_quality = media.NONE, 0.0
    for item in accept.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        if name in _RANGES and quality > best_quality:
            best, best_quality = _RANGES[name], quality
    if best == media.NONE:
        raise NotAcceptable(f"accept {accept!r} leaves no form to answer in; ask for one of {_WRITTEN}")
    return best


def reply_array(request: Request, y: npt.NDArray[Any], form: int, status: int = 200, fields: bytes = b"") -> None:
    """Answers with rows y in the given form. Unanswerable when that form cannot say them."""
    body: Any
    if y.dtype.kind not in "fiub":
        if form != media.JSON:
            raise Unanswerable(f"an array of {y.dtype} can only be answered as JSON; leave Accept out")
        body = dump_json({"predictions": y.tolist()})
    elif form == media.JSON:
        estimate = y.size * (2 * y.dtype.itemsize + 9)
        room = request.response_buffer(estimate) if estimate > _IN_PLACE_BYTES else None
        length = _codec.json_into(y, room) if room is not None else -1
        body = _codec.encode_json(y) if room is None or length < 0 else room[:length]
    elif form == media.NPY:
        body = _codec.encode_npy(y)
    else:
        body = _codec.encode_csv(y)
    request.reply(status, form, body, fields)


def reply_result(request: Request, result: Any) -> None:
    """Answers with one result of handle(). Unanswerable when it is none, or has a header that cannot be sent."""
    status, fields, kind = 200, b"", media.NONE
    if isinstance(result, Response):
        if result.headers or result.content_type not in media.EXACT:
            try:
                kind, fields = media.fields(result.content_type, result.headers)
            except ValueError as error:
                raise Unanswerable(str(error)) from None
        else:
            kind = media.EXACT[result.content_type]
        status, result = result.status, result.body
    is_typed = kind != media.NONE
    body: Any
    if isinstance(result, (bytes, bytearray, memoryview)):
        body, usual = result, media.RAW
        if isinstance(body, memoryview) and not body.c_contiguous:
            body = body.tobytes()
    elif isinstance(result, str):
        body, usual = result.encode("utf-8", "replace"), media.OTHER
        if not is_typed:
            fields += b"content-type: text/plain; charset=utf-8\r\n"
    elif isinstance(result, np.ndarray) and kind in (media.NONE, media.JSON, media.NPY, media.CSV):
        reply_array(request, np.atleast_1d(result), kind or form_of(request), status, fields)
        return
    else:
        body, usual = dump_json(result), media.JSON
    request.reply(status, kind or usual, body, fields)


def dump_json(value: Any) -> bytes:
    """JSON of anything that a model may return, arrays and numpy scalars included. Unanswerable when there is none."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS, default=_plain)
    except TypeError as error:
        raise Unanswerable(f"a result of type {type(value).__name__} cannot be said in JSON: {error}") from None


def plain_array(value: Any) -> Any:
    """For an encoder's `default`: arrays that orjson does not take as they are (of strides, of byte order, of strings),
    and numpy's scalars. TypeError for all else."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (set, frozenset)) else plain_array(value)
