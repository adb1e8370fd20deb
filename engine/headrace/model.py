"""What a model's author writes: a subclass of Model, and Response where an answer needs more than a body."""

import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.request import Request

tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
SETTINGS_FILE = "headrace.toml"


class Response:
    """An answer with a status, a content type and headers of its own.

    body: bytes, memoryview, str, array or anything that JSON can say. content_type: by the body's type when None.
    """

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        body: Any,
        status: int = 200,
        content_type: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    ) -> None:
        is_number = type(status) is int or (isinstance(status, int) and not isinstance(status, bool))
        if not is_number or not 200 <= status <= 599:
            raise ValueError(f"Response status {status!r} is no final status; use an integer from 200 to 599")
        self.body = body
        self.status = status
        self.content_type = content_type
        self.headers: Sequence[tuple[str, str]] = ()
        if headers is not None:
            self.headers = list(headers.items() if isinstance(headers, Mapping) else headers)


class Model:
    """Base class of native models. Define predict(), or handle() for the raw form; the rest is optional.

    The attributes are defaults; a `headrace.toml` in the model directory overrides them under the same names.
    """

    max_batch_size: int | None = None  # rows in a call of predict(), requests in a call of handle(); None: the server's
    max_batch_bytes: int | None = None  # of bodies that run together, a larger one runs alone; None: the server's
    max_batch_delay_ms: float | None = None  # how long a request may wait for company; None: the server's
    target_latency_ms: float | None = None  # instead of a fixed delay: size and wait are tuned to hold this p99
    dtype: Any = "float32"  # of predict()'s input
    shape: Sequence[int] | None = None  # of one row of it; None: any, checked by predict()
    isolation: str | None = None  # "shared" or "process", a plain string, read before the code; None: the server's
    replicas: int | Sequence[int] | None = None  # a number, or [least, most] to follow load; None: the server's
    pinned: bool = False  # never evicted to make room for another
    warm_up_request: dict[str, Any] | None = None  # {"body": ...} or {"file": ...}, answered before it is announced
    retry_members: bool = True  # run a batch that raised again, member by member, so that only the culprit fails

    def load(self, directory: Path) -> None:
        """Read what is needed from the model directory. Runs once for each replica, before anything else."""

    def warm_up(self) -> None:
        """Runs after load(): a first call of lazy parts, so that the first request does not pay for it."""

    def predict(self, x: Any) -> Any:
        """Answer rows x, an array (rows, *shape) of the declared dtype, with as many rows.

        x may be read-only, a view on shared memory: copy it in order to write.
        """
        raise NotImplementedError

    def handle(self, requests: list[Request]) -> Sequence[Any]:
        """Answer each request with a body (see Response) or a Response; an exception among them fails only its own."""
        raise NotImplementedError

    def unload(self) -> None:
        """Let go of what garbage collection does not: threads, files, device memory."""
