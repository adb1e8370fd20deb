"""What is asked of a server in a comparison: points, and the setups that they need.

echo:64        so many connections in a closed loop (wrk; the generator of `headrace bench` for a mix of requests)
echo:64@80%    an open loop at this share of what the closed loop before it found
tls:64         echo over https
many:64        mlp of many models, some more popular than others; mixed:16: bodies of many sizes
crash:16       the same with echoes while the model's process is killed
cold:10        so many models loaded one after another while the server runs
memory:50      so many models in memory
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.peers.catalogue import PEERS
from bench.scenarios import Mix, Scenario, all_scenarios, mixes
from bench.servers import Setup

PLAIN = "plain"
_SPELLED = re.compile(r"(\w+):([1-9]\d{0,3})(?:@([1-9]\d)%)?")


@dataclass(frozen=True)
class Point:
    """what: a scenario, a mix, or one of SPECIAL. number: connections, or models. percent: of capacity; 0: closed."""

    what: str
    number: int
    percent: int = 0

    def __str__(self) -> str:
        return f"{self.what}:{self.number}" + (f"@{self.percent}%" if self.percent else "")

    @property
    def name(self) -> str:
        """What a run calls it, beside its number."""
        return f"{self.what}@{self.percent}%" if self.percent else self.what

    @property
    def load(self) -> Scenario | Mix:
        """What is sent."""
        if self.what in _MIXES:
            return _MIXES[self.what]
        return _SCENARIOS[{"tls": "echo", "crash": "mortal", "cold": "mlp", "memory": "mlp"}.get(self.what, self.what)]

    @property
    def setup(self) -> str:
        """Points of one setup share a server."""
        if self.what == "memory":
            return str(self)
        return self.what if self.what in (*SPECIAL, "many") else PLAIN


#: Besides the scenarios and mixes.
SPECIAL = ("tls", "crash", "cold", "memory")
_SCENARIOS, _MIXES = all_scenarios(), mixes()
KNOWN = tuple(dict.fromkeys([*(name for name in _SCENARIOS if name != "mortal"), *_MIXES, *SPECIAL]))


def parse(text: str) -> Point:
    """ValueError, with what would be right, for what is no point."""
    found = _SPELLED.fullmatch(text)
    if not found or found[1] not in KNOWN:
        raise ValueError(f"{text!r} is not NAME:NUMBER or NAME:NUMBER@PERCENT%, with a name of {', '.join(KNOWN)}")
    if found[3] and (found[1] not in _SCENARIOS):
        raise ValueError(f"{text!r}: only {', '.join(_SCENARIOS)} can be asked in an open loop")
    return Point(found[1], int(found[2]), int(found[3] or 0))


def check(points: Sequence[Point]) -> None:
    """ValueError when a share of a capacity is asked for that nobody measures before."""
    for index, point in enumerate(points):
        if point.percent and Point(point.what, point.number) not in points[:index]:
            raise ValueError(f"{point} needs {point.what}:{point.number} before it")


def by_setup(points: Iterable[Point]) -> Mapping[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.setup, []).append(point)
    return found


def setup_for(points: Sequence[Point]) -> Setup:
    """For points of one setup."""
    first = points[0]
    if first.what == "memory":
        return Setup(tuple(f"mlp-{index}" for index in range(first.number)))
    if first.what == "cold":
        return Setup(("echo",))
    loads = [point.load for point in points]
    models = [part.model for load in loads for part in parts(load)]
    return Setup(tuple(dict.fromkeys(models)), is_encrypted=first.what == "tls")


def parts(load: Scenario | Mix) -> tuple[Scenario, ...]:
    return tuple(part for part, _ in load.parts) if isinstance(load, Mix) else (load,)


def refusal(server: str, point: Point) -> str:
    """Why the server cannot be asked; empty when it can."""
    if server in PEERS:
        return PEERS[server].refuses.get(point.what, "")
    return "it has no models" if server in ("bare", "floor") and (point.what in SPECIAL) else ""
