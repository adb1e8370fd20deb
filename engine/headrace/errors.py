"""The errors that Headrace raises on purpose, and their two outward forms: a control message and a JSON body.

Invariants
1. `code` is a stable word: it names the error in control messages, metrics and logs, and finds the class again.
2. `str(error)` is written for the client: what was wrong, the value, the limit, and what would be right.
3. Between processes an error is a code and a text, never a pickle; what comes back is checked: workers run user code.
"""

import enum
import traceback
from collections.abc import Mapping
from typing import Any, ClassVar

import orjson


class Exit(enum.IntEnum):
    """How a command ended."""

    OK = 0
    BOOT_FAILED = 1  # the server, a worker or the first model could not start
    USAGE = 2  # command line or settings: nothing was started


class HeadraceError(Exception):
    """Raised on purpose. status: HTTP; code: stable word for message, log and metric; retryable: worth another try.

    detail: text for the log rather than the client, such as a traceback; empty when there is none.
    fields: field lines that go with the answer, each `name: value\\r\\n`.
    """

    status: int = 500
    code: str = "internal"
    retryable: ClassVar[bool] = False
    detail: str = ""
    fields: bytes = b""


class RequestError(HeadraceError):
    """The client's fault, so its text is shown to the client."""

    status, code = 400, "bad_request"


class Forbidden(RequestError):
    """Not to be done from there."""

    status, code = 403, "forbidden"


class NotFound(RequestError):
    """No such route."""

    status, code = 404, "not_found"


class ModelNotFound(NotFound):
    """No model of that name is registered."""

    code = "model_not_found"


class MethodNotAllowed(RequestError):
    """The route exists, but not for this method."""

    status, code = 405, "method_not_allowed"


class PayloadTooLarge(RequestError):
    """A body over HEADRACE_MAX_REQUEST."""

    status, code = 413, "payload_too_large"


class UnsupportedMediaType(RequestError):
    """A content type that the model does not read."""

    status, code = 415, "unsupported_media_type"


class DecodeError(RequestError):
    """A body that is not what its content type says."""

    status, code = 400, "undecodable"


class ShapeMismatch(RequestError):
    """Well-formed rows of a shape or type that the model does not take."""

    status, code = 400, "shape_mismatch"


class DownloadFailed(RequestError):
    """A model archive could not be fetched; the text says why."""

    code = "download_failed"


class Conflict(HeadraceError):
    """The name is taken, or the model is in a state that forbids what was asked."""

    status, code = 409, "conflict"


class UnloadTimeout(HeadraceError):
    """Requests of an unloaded model ran longer than HEADRACE_UNLOAD_TIMEOUT: it is gone, but its worker was ended."""

    status, code = 408, "unload_timeout"


class ConfigError(HeadraceError):
    """Settings that cannot be used; the text lists every problem, one a line. Stops start-up."""

    code = "bad_config"


class LayoutMismatch(HeadraceError):
    """Processes of different builds met on one piece of shared memory."""

    code = "layout_mismatch"


class ModelError(HeadraceError):
    """A model that cannot be loaded: the text says why, `detail` has the traceback."""

    status, code = 500, "model_failed"

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class InvalidModel(ModelError):
    """An archive that is broken or refused, a manifest that is none: the files are at fault before any code has run."""

    status, code = 400, "invalid_model"


class OutOfMemory(HeadraceError):
    """Does not fit into the memory budget; the text names need, budget and what is free."""

    status, code = 507, "out_of_memory"


class Overloaded(HeadraceError):
    """A queue is full, or no slot is free: back off and come again."""

    status, code, retryable = 503, "overloaded", True


class WorkerLost(HeadraceError):
    """The worker that held the request died, and no redelivery was left."""

    status, code, retryable = 503, "worker_lost", True


class DeadlineExceeded(HeadraceError):
    """No answer within the request's time-out."""

    status, code = 503, "deadline_exceeded"


class InferenceError(HeadraceError):
    """Raised by a model to answer with just this status (400-599) and message."""

    code = "inference_error"

    def __init__(self, status: int, message: str) -> None:
        if isinstance(status, bool) or not isinstance(status, int) or not 400 <= status <= 599:
            raise ValueError(f"InferenceError status {status!r} is no error status; use an integer from 400 to 599")
        super().__init__(message)
        self.status = int(status)

    def __reduce__(self) -> tuple[type["InferenceError"], tuple[int, str]]:
        return type(self), (self.status, str(self))  # models may raise it inside a process pool of theirs


def _descendants(cls: type[HeadraceError]) -> list[type[HeadraceError]]:
    return [cls, *(below for child in cls.__subclasses__() for below in _descendants(child))]


_BY_CODE: dict[str, type[HeadraceError]] = {cls.code: cls for cls in _descendants(HeadraceError)}

# The word under "type" in a JSON error body: see type_of(). These are what clients of Multi Model Server look for.
TYPES: dict[str, str] = {
    "bad_request": "BadRequestException",
    "forbidden": "ForbiddenException",
    "not_found": "ResourceNotFoundException",
    "model_not_found": "ModelNotFoundException",
    "method_not_allowed": "MethodNotAllowedException",
    "payload_too_large": "PayloadTooLargeException",
    "unsupported_media_type": "UnsupportedMediaTypeException",
    "undecodable": "BadRequestException",
    "shape_mismatch": "BadRequestException",
    "conflict": "ConflictStatusException",
    "unload_timeout": "RequestTimeoutException",
    "out_of_memory": "InsufficientStorageException",
    "overloaded": "ServiceUnavailableException",
    "worker_lost": "ServiceUnavailableException",
    "download_failed": "DownloadModelException",
    "deadline_exceeded": "ServiceUnavailableException",
    "internal": "InternalServerException",
    "bad_config": "InternalServerException",
    "layout_mismatch": "InternalServerException",
    "invalid_model": "InvalidModelException",
    "model_failed": "InternalServerException",
}
# The same for errors whose status is the model's choice; any other is a bad request, and internal from 500 on.
_TYPES_BY_STATUS: dict[int, str] = {
    401: "UnauthorizedException",
    404: "ResourceNotFoundException",
    405: "MethodNotAllowedException",
    409: "ConflictStatusException",
    413: "PayloadTooLargeException",
    415: "UnsupportedMediaTypeException",
    503: "ServiceUnavailableException",
    507: "InsufficientStorageException",
}


def type_of(status: int, code: str) -> str:
    """The word under "type" in the body of an error with this code or, where a code has no word of its own, status."""
    fallback = "BadRequestException" if status < 500 else "InternalServerException"
    return TYPES.get(code) or _TYPES_BY_STATUS.get(status, fallback)


def to_message(exc: BaseException) -> dict[str, Any]:
    """The control channel's form of *exc*: {"ok": False, "error", "status", "code"} and, when there is one, "detail".

    MemoryError becomes `out_of_memory`; any other foreign exception becomes `internal`, its traceback the detail.
    """
    if isinstance(exc, HeadraceError):
        status, code, text, detail = exc.status, exc.code, str(exc), exc.detail
    else:
        kind: type[HeadraceError] = OutOfMemory if isinstance(exc, MemoryError) else HeadraceError
        status, code, text = kind.status, kind.code, _one_line(exc)
        detail = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
    message: dict[str, Any] = {"ok": False, "error": text, "status": status, "code": code}
    if detail:
        message["detail"] = detail
    return message


def from_message(message: Mapping[str, Any]) -> HeadraceError:
    """The error that to_message() wrote down. An unknown code gives a HeadraceError that keeps code and status."""
    code, text, status = message.get("code"), message.get("error"), message.get("status")
    cls = _BY_CODE.get(code, HeadraceError) if isinstance(code, str) else HeadraceError
    error = cls.__new__(cls, str(text or "no reason was given"))
    if isinstance(status, int) and 400 <= status <= 599:
        error.status = status
    if isinstance(code, str) and code:
        error.code = code
    error.detail = str(message.get("detail") or "")
    return error


def body(status: int, type: str, message: str) -> bytes:
    """The JSON error body {"code": status, "type": type, "message": message}, indented by two, with a final newline."""
    document = {"code": status, "type": type, "message": message}
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    try:
        return orjson.dumps(document, option=options)
    except orjson.JSONEncodeError:  # half a surrogate pair, from undecodable bytes in a path or an exception's text
        document["message"] = message.encode("utf-8", "replace").decode()
        return orjson.dumps(document, option=options)


def _one_line(exc: BaseException) -> str:
    text = str(exc)
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__
