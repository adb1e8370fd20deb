"""Which models exist, in which state, and where their replicas are. Plain bookkeeping: no I/O.

    registered -> loading -> resident -> unloading -> gone
                   |   ^        |
                   v   |        v
              failed   +---- evicted       (each with its reason)

Invariants
1. A name is taken from register() until remove(); only a failed model may be replaced.
2. An index is never used again: a late completion for a model that is gone names nobody else's.
3. Requests are routed to RESIDENT replicas only.
"""

import asyncio
import enum
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from headrace.errors import Conflict, ModelNotFound, RequestError

PAGE_MAX = 100
_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}")


class State(enum.Enum):
    REGISTERED = "registered"
    LOADING = "loading"
    RESIDENT = "resident"
    EVICTED = "evicted"  # its next request loads it again
    UNLOADING = "unloading"
    FAILED = "failed"


@dataclass(slots=True)
class Replica:
    """One worker's copy. since: wall-clock seconds of the last change, for people."""

    state: State
    since: float = field(default_factory=time.time)

    def become(self, state: State) -> None:
        self.state, self.since = state, time.time()


@dataclass(slots=True)
class Model:
    """url: as it was given; path: where it is; directory: of its files, to which an archive is unpacked; options: for
    the worker's loader; index: its number in every process; described: of its manifest, for whoever asks about it.

    isolation: "shared" or "process"; least, most: replicas that it is to have, as its load demands; is_counted:
    somebody asked for them, so that what its class says counts nothing; replicas: worker index -> Replica; is_routed:
    frontends know it; reason: of a failure, an eviction, or a load that was refused; is_pinned: never evicted.
    timeout_ms: of its requests, 0 for the server's; promised: a longer one that holds for those that came before it was
    lowered, and until when (CLOCK_MONOTONIC, ns).
    used_ns: its latest request, loaded_ns: the end of its last load (CLOCK_MONOTONIC; 0: none yet); in_flight: requests
    under way when frontends were last asked; needs_bytes: what a replica took when it was loaded last (0: not known);
    shared_bytes: what its replicas have in common; code: digest of its code and magnitude of its files (lanes.py);
    quarantine: why it is set aside now, and for how long; empty: it is not. work: held by whoever loads, scales or
    unloads it; is_leaving: it is to be unloaded, so what else is under way with it had better end.
    """

    name: str
    path: str
    url: str
    index: int
    directory: str = ""
    handler: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    described: dict[str, str] = field(default_factory=dict)
    isolation: str = "shared"
    least: int = 1
    most: int = 1
    is_counted: bool = False
    timeout_ms: int = 0
    promised: tuple[int, int] = (0, 0)
    is_startup: bool = False
    is_default: bool = False
    is_routed: bool = False
    state: State = State.REGISTERED
    is_pinned: bool = False
    used_ns: int = 0
    loaded_ns: int = 0
    in_flight: int = 0
    needs_bytes: int = 0
    shared_bytes: int = 0
    code: tuple[bytes, int] | None = None
    reason: str = ""
    quarantine: str = ""
    quarantined_for_s: float = 0.0
    info: dict[str, Any] = field(default_factory=dict)
    replicas: dict[int, Replica] = field(default_factory=dict)
    registered_at: float = field(default_factory=time.time)
    is_leaving: bool = False
    work: asyncio.Lock = field(default_factory=asyncio.Lock, compare=False, repr=False)

    @property
    def status(self) -> str:
        """Its state in a word, for people and their programs."""
        return "quarantined" if self.quarantine and self.state is State.RESIDENT else self.state.value

    def residents(self) -> list[int]:
        """Workers that can take requests for it, ascending."""
        return sorted(worker for worker, replica in self.replicas.items() if replica.state is State.RESIDENT)

    def become(self, state: State, reason: str = "") -> None:
        self.state, self.reason = state, reason

    def fail(self, reason: str) -> None:
        self.become(State.FAILED, reason)


class Registry:
    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        self._by_index: dict[int, Model] = {}
        self._next_index = 1

    def __iter__(self) -> Iterator[Model]:
        return iter(list(self._models.values()))

    def __len__(self) -> int:
        return len(self._models)

    def __contains__(self, name: str) -> bool:
        return name in self._models

    def register(self, name: str, path: str, url: str, **fields: Any) -> Model:
        """Take *name* for a new model; fields: of Model. Raises RequestError for a name that cannot be, Conflict."""
        self.check_free(name)
        failed = self._models.get(name)
        if failed is not None:
            self.remove(failed)
            fields.setdefault("is_default", failed.is_default)
        model = Model(name, path, url, self._next_index, **fields)
        self._next_index += 1
        self._models[name] = self._by_index[model.index] = model
        return model

    def check_free(self, name: str) -> None:
        """Raises RequestError for a name that cannot be, Conflict for one in use."""
        check_name(name)
        known = self._models.get(name)
        if known is not None and known.state is not State.FAILED:
            raise Conflict(f"Model {name} is already registered.")

    def get(self, name: str) -> Model:
        """The model of that name. Raises ModelNotFound."""
        try:
            return self._models[name]
        except KeyError:
            raise ModelNotFound(f"Model not found: {name}") from None

    def find(self, index: int) -> Model | None:
        """The model of that number, while it is registered."""
        return self._by_index.get(index)

    def remove(self, model: Model) -> None:
        """Free the name, unless another model has it by now."""
        self._by_index.pop(model.index, None)
        if self._models.get(model.name) is model:
            del self._models[model.name]

    def on_worker(self, worker: int) -> list[Model]:
        """Models with a replica on that worker, in any state, oldest first."""
        return [model for model in self._models.values() if worker in model.replicas]

    def page(self, limit: str | None, token: str | None) -> tuple[list[Model], str | None]:
        """A page of the list by name, and the next page's token when there is more.

        limit: at most so many, 1 to 100; anything else means 100. token: an offset as text; junk means 0.
        """
        size = _count(limit, PAGE_MAX)
        size = size if 1 <= size <= PAGE_MAX else PAGE_MAX
        start = max(0, _count(token, 0))
        names = sorted(self._models)
        end = start + size
        return [self._models[name] for name in names[start:end]], str(end) if end < len(names) else None


def check_name(name: str) -> str:
    """*name*, when it can name a model; else raises RequestError."""
    if not _NAME.fullmatch(name) or name in (".", ".."):
        shown = repr(name if len(name) <= 100 else name[:97] + "...")
        raise RequestError(f"model name {shown} must be 1 to 255 letters, digits, `.`, `_` or `-`, and not `.` or `..`")
    return name


def _count(text: str | None, default: int) -> int:
    """A whole number of at most 9 digits; *default* for anything else."""
    return int(text) if text is not None and re.fullmatch(r"-?[0-9]{1,9}", text) else default
