"""What a model sees of a request."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from headrace.errors import HeadraceError

if TYPE_CHECKING:
    import numpy.typing as npt


class Headers(Mapping[str, str]):
    """Field values by case-insensitive name."""

    raw: list[tuple[str, str]]  # (name as sent, value), in order


class Request(Protocol):
    """One request in a worker's hands: answered exactly once, by reply() or fail().

    Models read it; the server answers it with what they return.
    """

    @property
    def body(self) -> memoryview:
        """The body in shared memory, read-only; stays valid for as long as it is held."""

    @property
    def kind(self) -> int:
        """Media type of the body (headrace.media)."""

    @property
    def accept_kind(self) -> int:
        """Media type that the client wants back (headrace.media)."""

    @property
    def content_type(self) -> str:
        """As sent; empty when there was none."""

    @property
    def accept(self) -> str:
        """As sent; empty when there was none."""

    @property
    def headers(self) -> Headers: ...

    @property
    def id(self) -> str:
        """A UUID; the client finds it in the answer's x-request-id."""

    @property
    def model_name(self) -> str: ...

    @property
    def query(self) -> str:
        """The target's query as sent, without the question mark."""

    @property
    def deadline_ns(self) -> int:
        """CLOCK_MONOTONIC; nobody waits for an answer after it."""

    def time_left(self) -> float:
        """Seconds until the deadline; negative when it has passed."""

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody waits for the answer any more: the client is gone, or the deadline has passed."""

    def json(self) -> Any:
        """The body as JSON. ValueError when it is none."""

    def array(self) -> "npt.NDArray[Any]":
        """The body as rows of the model's dtype and shape, by its content type. RequestError when it is none."""

    def count_copy(self, length: int, /) -> None:
        """Takes note that so many bytes of the body were copied."""

    def response_buffer(self, length: int, /) -> memoryview | None:
        """Writable memory behind the body, to make an answer of `length` bytes in place; None when there is no room."""

    def reply(self, status: int, kind: int, body: Any, fields: bytes = b"", /) -> None:
        """Answers with a contiguous buffer.

        kind: media type of the body; with media.OTHER the fields name it. fields: further `name: value\\r\\n` lines.
        """

    def fail(self, exc: HeadraceError, /) -> None:
        """Answers with the error as JSON."""
