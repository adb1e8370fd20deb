from collections.abc import Iterator, Sequence
from typing import NamedTuple

Buffer = bytes | bytearray | memoryview

KINDS: tuple[str, ...]

class Head(NamedTuple):
    method: str
    minor: int
    path: bytes
    query: bytes
    fields: list[tuple[bytes, bytes]]
    content_length: int | None
    chunked: bool
    keep_alive: bool
    expect_continue: bool
    expect_other: bool
    content_type: bytes
    content_kind: str
    accept: bytes
    accept_kind: str
    codings: int
    head_length: int
    skipped: int

class HttpError(ValueError):
    status: int
    code: str
    def __init__(self, status: int, code: str, message: str) -> None: ...

def parse_head(data: Buffer, pieces: Sequence[int] | None = None, **limits: int) -> Head | None: ...

class ChunkDecoder:
    done: bool
    used: int
    def __init__(self, **limits: int) -> None: ...
    @property
    def announced(self) -> int: ...
    def feed(self, data: Buffer) -> bytes: ...

class Reader:
    def __init__(self, **limits: int) -> None: ...
    @property
    def pending_bytes(self) -> int: ...
    @property
    def is_idle(self) -> bool: ...
    def feed(self, data: Buffer) -> Iterator[tuple[Head, bytes]]: ...

def split_path(path: bytes, room: int | None = None) -> list[bytes]: ...
def field_ok(name: bytes, value: bytes) -> bool: ...
def field_is_owned(name: bytes) -> bool: ...
