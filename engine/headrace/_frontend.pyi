import asyncio
from collections.abc import Callable, Sequence
from typing import Any

INFERENCE: int
MANAGEMENT: int

class Exchange: ...

class Note:
    is_logged: bool
    is_traced: bool
    is_https: bool
    is_http10: bool
    client: str
    method: str | None
    path: str | None
    route: str | None
    model: str | None
    target_model: str | None
    status: int
    request_bytes: int
    response_bytes: int
    arrival_ns: int
    whole_ns: int
    taken_ns: int
    started_ns: int
    finished_ns: int
    sent_ns: int
    batch_rows: int
    span_id: int
    parent_id: int
    parent_flags: int
    tracestate: str | None
    @property
    def id(self) -> str: ...
    @property
    def trace_id(self) -> int: ...

class Connection(asyncio.BufferedProtocol): ...

class Frontend:
    connections: set[Connection]
    is_draining: bool
    accepted: int
    overloaded: int
    abandoned: int
    redelivered: int
    timed_out: int
    parks: int
    polls: int
    bells: int
    invalid_completions: int
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        board_fd: int,
        segment_fd: int,
        eventfd: int,
        arena_bytes: int,
        largest: int,
        limits: dict[str, int],
        render_error: Callable[[int, str], bytes],
        ask: Callable[[Exchange, str, str, str, str, bytes, int], None],
        on_suspect: Callable[[int], None],
        wake: Callable[[int], None],
    ) -> None: ...
    def protocol(self, surfaces: int) -> Connection: ...
    def watch(
        self, hear: Callable[[list[Note]], None], share: float | None, sampling: tuple[bool, float] | None, seed: int
    ) -> None: ...
    def set_limits(self, limits: dict[str, int]) -> None: ...
    def set_surroundings(self, cache: bytes, origin: bytes, preflight: bytes | None, execution_text: bytes) -> None: ...
    def set_health(self, status: int, text: str) -> None: ...
    def set_readiness(self, status: int, text: bytes) -> None: ...
    def set_token(self, token: bytes, guards_inference: bool, guards_reading: bool = True) -> None: ...
    def set_route(
        self,
        name: str,
        model: int,
        workers: Sequence[int],
        most: int,
        timeout_ms: int,
        is_default: bool,
        refusal: str = "",
        retry_after_s: int = 0,
        is_named: bool = True,
    ) -> None: ...
    def remove_route(self, name: str) -> None: ...
    def refuse(self, name: str, model: int, status: int, text: str) -> None: ...
    def uses(self) -> list[tuple[int, int, int]]: ...
    def worker_up(self, worker: int) -> None: ...
    def worker_down(self, worker: int, out_of_memory: bool = False) -> None: ...
    def answer(
        self, exchange: Exchange, status: int, body: bytes, content_type: str, fields: dict[str, str]
    ) -> None: ...
    def drain_connections(self) -> None: ...
    def unanswered(self) -> int: ...
    def answer_rest(self, text: str) -> None: ...
    def poll(self) -> None: ...
    def wake(self) -> None: ...
    def sweep(self) -> None: ...
    def trim_begin(self) -> list[tuple[int, int, int]]: ...
    def punch(self, ranges: list[tuple[int, int, int]]) -> None: ...
    def trim_end(self, ranges: list[tuple[int, int, int]]) -> None: ...
    def stats(self) -> dict[str, Any]: ...
    def tally(self, busiest: int) -> dict[str, Any]: ...
