"""The request that a model is tried with before it is announced: its lazy parts run, and what it takes is measured.

    headrace.toml                                 or an attribute of the class, as a dict
    [warm_up_request]
    body = '{"instances": [[0, 0]]}'              the text itself, or: file = "warm_up.npy", in the model's directory
    content_type = "application/json"             the default
    times = 1                                     the default; so often, one after the other

A model that answers it with an error is not loaded, and that answer is the reason.
"""

import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from headrace import media
from headrace.errors import HeadraceError, ModelError, OutOfMemory
from headrace.loaders import Servable
from headrace.request import Headers

DEADLINE_S = 600.0  # that the model sees; nothing ends it
TOLD_MOST = 300  # characters of an answer that become part of the reason
_FORMS = {"application/x-www-form-urlencoded": media.FORM, "multipart/form-data": media.MULTIPART}


def run(servable: Servable, wanted: Mapping[str, Any], directory: Path) -> None:
    """Have the model answer its warm-up request. Raises ModelError, or OutOfMemory, when it does not with success."""
    body = _body(servable.name, wanted, directory)
    for _ in range(wanted.get("times", 1)):
        request = _Request(servable, body, wanted.get("content_type", "application/json"))
        try:
            servable.run([request])
        except SystemExit:
            pass  # of a handler; the request is answered
        _judge(servable.name, request)


def _body(name: str, wanted: Mapping[str, Any], directory: Path) -> bytes:
    if "body" in wanted:
        return str(wanted["body"]).encode()
    path = (directory / str(wanted["file"])).resolve()
    if not path.is_relative_to(directory.resolve()):
        raise ModelError(f"model {name}: warm_up_request: {wanted['file']} is not in the model's directory")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"model {name}: warm_up_request: {path}: {error.strerror}") from None


def _judge(name: str, request: "_Request") -> None:
    if request.status is not None and request.status < 400:
        return
    why = f"was answered {request.status}: {request.told[:TOLD_MOST]}" if request.status else "was not answered"
    cause = request.detail.strip().rpartition("\n")[2][:TOLD_MOST]
    reason = f"model {name}: its warm-up request {why}" + (f" ({cause})" if cause else "")
    if request.status == OutOfMemory.status:
        raise OutOfMemory(reason)
    raise ModelError(reason, request.detail)


class _Headers(Headers):
    """The one field that a warm-up request has."""

    def __init__(self, content_type: str) -> None:
        self.raw = [("Content-Type", content_type)]

    def __getitem__(self, name: str) -> str:
        if name.lower() != "content-type":
            raise KeyError(name)
        return self.raw[0][1]

    def __iter__(self) -> Iterator[str]:
        return iter(["content-type"])

    def __len__(self) -> int:
        return 1


class _Request:
    """A headrace.request.Request in memory of this process. status, told: of its answer; detail: a traceback."""

    kind: int
    accept_kind = media.ANY
    accept = ""
    query = ""
    is_abandoned = False

    def __init__(self, servable: Servable, body: bytes, content_type: str) -> None:
        self._servable = servable
        self.body = memoryview(body)
        self.content_type = content_type
        name = content_type.partition(";")[0].strip().lower()
        self.kind = (media.EXACT | _FORMS).get(name, media.OTHER)
        self.headers = _Headers(content_type)
        self.id = str(uuid.uuid4())
        self.model_name = servable.name
        self.deadline_ns = time.monotonic_ns() + round(DEADLINE_S * 1e9)
        self.status: int | None = None
        self.told = ""
        self.detail = ""

    def time_left(self) -> float:
        return (self.deadline_ns - time.monotonic_ns()) / 1e9

    def json(self) -> Any:
        return orjson.loads(self.body)

    def array(self) -> Any:
        return self._servable.decode(self)

    def count_copy(self, length: int, /) -> None:
        pass

    def response_buffer(self, length: int, /) -> memoryview | None:
        return None

    def reply(self, status: int, kind: int, body: Any, fields: bytes = b"", /) -> None:
        self.status = status
        self.told = bytes(memoryview(body).cast("B")[: 4 * TOLD_MOST]).decode("utf-8", "replace")

    def fail(self, exc: HeadraceError, /) -> None:
        self.status, self.told, self.detail = exc.status, str(exc), exc.detail
