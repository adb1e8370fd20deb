"""A request whose body and answer are plain bytes of this process: what a servable is handed, without a worker."""

import json
import time
import uuid
from collections.abc import Mapping

import orjson

from headrace import media
from headrace.errors import HeadraceError

KINDS = {
    "application/json": media.JSON,
    "application/x-npy": media.NPY,
    "text/csv": media.CSV,
    "application/octet-stream": media.RAW,
    "text/plain": media.TEXT,
    "application/x-www-form-urlencoded": media.FORM,
    "multipart/form-data": media.MULTIPART,
    "": media.NONE,
}


class Headers(Mapping):
    def __init__(self, raw):
        self.raw = raw
        self._values = {name.lower(): value for name, value in raw}

    def __getitem__(self, name):
        return self._values[name.lower()]

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)


class LocalRequest:
    """Keeps its answer in `status`, `answer_kind`, `answer` and `fields`; a second answer is an error."""

    def __init__(self, body, content_type="application/json", accept="", headers=(), query="", room=0):
        self._body = body if isinstance(body, (bytes, memoryview)) else json.dumps(body).encode()
        raw = [("Content-Type", content_type)] if content_type else []
        self.headers = Headers([*raw, *([("Accept", accept)] if accept else []), *headers])
        self.kind = KINDS.get(content_type.partition(";")[0], media.OTHER)
        self.accept_kind = KINDS.get(accept, media.OTHER) if accept and not accept.startswith("*") else media.ANY
        self.content_type, self.accept, self.query = content_type, accept, query
        self.id = str(uuid.uuid4())
        self.model_name = "m"
        self.deadline_ns = time.monotonic_ns() + 60 * 10**9
        self.room = bytearray(room)
        self.servable = None
        self.status = None
        self.view = None

    @property
    def body(self):
        if self.view is None:
            self.view = memoryview(self._body)
        return self.view

    def time_left(self):
        return (self.deadline_ns - time.monotonic_ns()) / 1e9

    def json(self):
        return orjson.loads(self.body)

    def array(self):
        return self.servable.decode(self)

    def count_copy(self, length):
        self.copied = getattr(self, "copied", 0) + length

    def response_buffer(self, length):
        return memoryview(self.room)[:length] if length <= len(self.room) else None

    def reply(self, status, kind, body, fields=b""):
        assert self.status is None, "answered twice"
        memoryview(body).cast("B")  # contiguous
        assert isinstance(fields, bytes)
        assert (kind == media.OTHER) == (b"content-type: " in fields)
        self.status, self.answer_kind, self.answer, self.fields = status, kind, bytes(body), fields
        self.in_place = getattr(body, "obj", None) is self.room
        self.view = None

    def fail(self, exc):
        assert isinstance(exc, HeadraceError)
        self.error = exc
        self.reply(exc.status, media.JSON, json.dumps({"message": str(exc)}).encode())

    @property
    def message(self):
        return json.loads(self.answer)["message"]

    @property
    def predictions(self):
        assert self.status == 200, self.answer
        return json.loads(self.answer)["predictions"]
