"""Load on an HTTP server, and what became of it: the generator behind `headrace bench` and the benchmarks.

    plan = Plan("http://127.0.0.1:8080", [Request("/models/echo/invoke", b"{}")], rate=500, duration_s=10)
    report = run(plan)
    report.percentile_ms(99), report.rate, report.failures

*Open loop* (a rate): requests are planned ahead, evenly or as a Poisson process, whatever the server does, and a
latency counts from when its request was planned. *Closed loop* (no rate): each connection sends when its answer has
come; this finds capacity, but its latencies leave out what a stall kept from being sent.

Nothing is lost: each planned request is good, or failed in one of the ways of FAILURES. One that never got an answer
counts in percentiles as one that took forever. The engine is ext/load.h: one thread without the GIL, bounded memory,
plain HTTP/1.1 with keep-alive and one request at a time on a connection.
"""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from headrace import processes
from headrace._load import Histogram, Load

#: How a planned request fails, and what that means.
FAILURES = {
    "refused": "answered with a status of 300 or more",
    "wrong": "answered with a body that is not the right one",
    "lost": "the connection ended before the answer was whole",
    "malformed": "what came is no HTTP/1.1 answer",
    "late": "no whole answer within the time-out, counted from when it was sent",
    "unsent": "not sent until the end of the run and its grace, since no connection was free",
}
#: Those of them that were never answered: in percentiles they took forever.
UNANSWERED = ("lost", "malformed", "late", "unsent")

CONNECTIONS_MAX = 50_000
PLANNED_MAX = 2_000_000_000
FILES_BESIDE = 64  # descriptors that the process needs for other things
SLICE_S = 0.2  # signals are looked at this often
_TARGET = re.compile(r"/[!-~]*")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t -~\x80-\xff]*")


class LoadError(Exception):
    """A plan that cannot be carried out; the text says why and what would do."""


class NoConnection(LoadError):
    """Nobody takes a connection at the start."""


@dataclass(frozen=True)
class Request:
    """One kind of request, drawn in proportion to its weight (> 0).

    target: path and query, percent-encoded. headers: besides Host and Content-Length. expected: the only right body
    of an answer, compared for every answer; None = any. name: what the report calls it, the target if empty.
    """

    target: str
    body: bytes = b""
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    expected: bytes | None = None
    weight: float = 1.0
    name: str = ""


@dataclass(frozen=True)
class Plan:
    """What to send, where to, and how long.

    url: http://HOST[:PORT], the path of which is not used. connections: open at a time; in open loop, more requests
    than that wait. rate: requests a second, None = closed loop. arrivals: `constant` or `poisson`. warm_up_s comes
    before duration_s and is not measured. grace_s: after the end, time in which what was due before may still be
    sent. timeout_s: of one request, looked at some 50 times a second. seed: of all that is drawn. check: called with
    (index of the request, status, body) for each `check_every`th answer; false makes the answer wrong. It is called
    by the thread that sends, so what it takes is added to latencies: check all only where time is not judged. An
    answer that is to be shown to it and is larger than check_max_bytes is wrong.
    """

    url: str
    requests: Sequence[Request]
    connections: int = 16
    rate: float | None = None
    arrivals: str = "constant"
    duration_s: float = 10.0
    warm_up_s: float = 0.0
    grace_s: float = 1.0
    timeout_s: float = 60.0
    seed: int = 1
    check: Callable[[int, int, bytes], object] | None = None
    check_every: int = 1
    check_max_bytes: int = 64 << 20


@dataclass(frozen=True)
class Interval:
    """A second or so of a run. at_s: its end, from the start of the run. good: answers that came in it; p50, p99:
    theirs."""

    at_s: float
    seconds: float
    good: int
    failed: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Report:
    """What became of a plan. All of it concerns requests planned after the warm-up, unless it says otherwise.

    seconds: measured; shorter than planned when the run was interrupted. sent: requests. good, and failed by
    FAILURES. rate: good answers a second, by when they came. unfinished: sent, and unanswered when the run was
    interrupted. latency: of good answers, from plan to last byte; refused: the same of refused and wrong ones;
    lateness: how late the generator itself sent where a connection was free: when this is no longer small, the
    generator is what is measured. by_request: (sent, good) in the order of the plan. connect_errors, reconnects,
    bytes: warm-up included.
    """

    plan: Plan
    seconds: float
    is_interrupted: bool
    sent: int
    good: int
    failed: Mapping[str, int]
    warm_up_failed: int
    unfinished: int
    rate: float
    latency: Histogram
    refused: Histogram
    lateness: Histogram
    statuses: Mapping[int, int]
    by_request: Sequence[tuple[int, int]]
    connect_errors: int
    connect_error: str
    reconnects: int
    sent_bytes: int
    received_bytes: int
    timeline: Sequence[Interval]

    @property
    def planned(self) -> int:
        """Requests that were due: good, failed and unfinished ones."""
        return self.good + self.failures + self.unfinished

    @property
    def failures(self) -> int:
        return sum(self.failed.values())

    def percentile_ms(self, percent: float) -> float:
        """Latency that so many percent of the requests stayed within; inf where that needs one that was never answered.

        Refused and wrong answers are left out: they are in `refused`. nan when there is nothing to tell from.
        """
        forever = sum(self.failed[word] for word in UNANSWERED)
        return percentile_ms(self.latency, percent, forever)

    def to_json(self) -> dict[str, Any]:
        """All of it, for a file. Percentiles that are infinite or unknown are null."""
        shown = (50, 75, 90, 95, 99, 99.9, 99.99, 100)
        return {
            "url": self.plan.url,
            "loop": "closed" if self.plan.rate is None else self.plan.arrivals,
            "planned_rate": self.plan.rate,
            "connections": self.plan.connections,
            "seed": self.plan.seed,
            "warm_up_s": self.plan.warm_up_s,
            "seconds": self.seconds,
            "is_interrupted": self.is_interrupted,
            "planned": self.planned,
            "sent": self.sent,
            "good": self.good,
            "failed": dict(self.failed),
            "warm_up_failed": self.warm_up_failed,
            "unfinished": self.unfinished,
            "rate": self.rate,
            "latency_ms": {f"p{percent:g}": _finite(self.percentile_ms(percent)) for percent in shown},
            "lateness_ms": {f"p{percent:g}": _finite(percentile_ms(self.lateness, percent)) for percent in shown},
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "requests": [
                {"name": request.name or request.target, "weight": request.weight, "sent": sent, "good": good}
                for request, (sent, good) in zip(self.plan.requests, self.by_request, strict=True)
            ],
            "connect_errors": self.connect_errors,
            "connect_error": self.connect_error,
            "reconnects": self.reconnects,
            "sent_bytes": self.sent_bytes,
            "received_bytes": self.received_bytes,
            "timeline": [
                {**vars(interval), "p50_ms": _finite(interval.p50_ms), "p99_ms": _finite(interval.p99_ms)}
                for interval in self.timeline
            ],
            "histograms": {
                "latency": self.latency.dump(),
                "refused": self.refused.dump(),
                "lateness": self.lateness.dump(),
            },
        }


def run(plan: Plan, on_interval: Callable[[Interval], None] | None = None, interval_s: float = 1.0) -> Report:
    """Carry out the plan. on_interval: told of each interval of the timeline when it is over.

    An interrupt (SIGINT) ends the run early, with a report of what there is by then. Raises LoadError for a plan that
    cannot be, NoConnection when none can be made at the start; afterwards, connections are tried again for as long as
    it lasts.
    """
    load = _prepare(plan)
    timeline: list[Interval] = []
    before = {"elapsed_ns": 0, "failed": 0}
    is_interrupted = False

    def close_interval() -> None:
        counts, latency = load.counts(), load.take_interval()
        failed = sum(counts[phase][word] for phase in ("warm_up", "measured") for word in FAILURES)
        seconds = (counts["elapsed_ns"] - before["elapsed_ns"]) / 1e9
        interval = Interval(
            counts["elapsed_ns"] / 1e9,
            seconds,
            latency.count,
            failed - before["failed"],
            percentile_ms(latency, 50),
            percentile_ms(latency, 99),
        )
        before.update(elapsed_ns=counts["elapsed_ns"], failed=failed)
        timeline.append(interval)
        if on_interval:
            on_interval(interval)

    try:
        while not load.run(round(min(SLICE_S, interval_s) * 1e9)):
            if load.counts()["elapsed_ns"] - before["elapsed_ns"] >= interval_s * 1e9:
                close_interval()
    except ConnectionError as error:
        raise NoConnection(f"{plan.url}: no connection: {error.strerror}; is the server running there?") from None
    except KeyboardInterrupt:
        is_interrupted = True
    close_interval()
    return _report(plan, load, timeline, is_interrupted)


def percentile_ms(histogram: Histogram, percent: float, forever: int = 0) -> float:
    """Of a histogram, in milliseconds, when another `forever` durations never ended. nan when there are none at all."""
    total = histogram.count + forever
    if not total:
        return math.nan
    rank = max(1, math.ceil(round(percent / 100 * total, 6)))
    return histogram.ranked_ns(rank) / 1e6 if rank <= histogram.count else math.inf


def zipf(count: int, exponent: float = 1.0) -> list[float]:
    """Weights of `count` things of falling popularity: the k-th has 1 / k**exponent."""
    return [1 / rank**exponent for rank in range(1, count + 1)]


def _prepare(plan: Plan) -> Load:
    parts = urlsplit(plan.url)
    if parts.scheme == "https":
        raise LoadError(
            f"{plan.url}: https is not measured; measure the server's plain port, or end TLS before it with a proxy"
        )
    if parts.scheme != "http" or not parts.hostname:
        raise LoadError(f"{plan.url!r} must be a URL such as http://127.0.0.1:8080")
    try:
        port = parts.port or 80
    except ValueError as error:
        raise LoadError(f"{plan.url!r}: {error}") from None
    _check_numbers(plan)
    _raise_file_limit(plan.connections)
    heads = [_head(request, parts.netloc.rpartition("@")[2]) for request in plan.requests]
    table = alias_table([request.weight for request in plan.requests])
    family, host = _address(plan.url, parts.hostname, port, plan.timeout_s)
    return Load(
        family,
        host,
        port,
        [
            (head, request.body, request.expected, keep, alias)
            for head, request, (keep, alias) in zip(heads, plan.requests, table, strict=True)
        ],
        loop="closed" if plan.rate is None else plan.arrivals,
        connections=plan.connections,
        rate=plan.rate or 0.0,
        warm_up_ns=round(plan.warm_up_s * 1e9),
        duration_ns=round(plan.duration_s * 1e9),
        grace_ns=round(plan.grace_s * 1e9),
        timeout_ns=round(plan.timeout_s * 1e9),
        seed=plan.seed % 2**64,
        check=plan.check,
        check_every=plan.check_every,
        check_max_bytes=plan.check_max_bytes,
    )


def _check_numbers(plan: Plan) -> None:
    bounds: Iterable[tuple[str, float, float, float]] = (
        ("connections", plan.connections, 1, CONNECTIONS_MAX),
        ("rate", 1 if plan.rate is None else plan.rate, 1e-3, 1e7),
        ("duration_s", plan.duration_s, 1e-3, 7 * 86_400),
        ("warm_up_s", plan.warm_up_s, 0, 86_400),
        ("grace_s", plan.grace_s, 0, 86_400),
        ("timeout_s", plan.timeout_s, 1e-3, 86_400),
        ("check_every", plan.check_every, 1, 1 << 60),
        ("check_max_bytes", plan.check_max_bytes, 0, 1 << 40),
    )
    for name, value, low, high in bounds:
        if not low <= value <= high:  # which nan does not pass either
            raise LoadError(f"{name} is {value:g}, must be from {low:g} to {high:g}")
    if plan.arrivals not in ("constant", "poisson"):
        raise LoadError(f"arrivals {plan.arrivals!r} must be constant or poisson")
    planned = (plan.rate or 0) * (plan.warm_up_s + plan.duration_s)
    if planned > PLANNED_MAX:
        raise LoadError(f"{planned:,.0f} requests are planned, at most {PLANNED_MAX:,} may be; lower rate or duration")
    if not plan.requests:
        raise LoadError("there is no request to send; give at least one")
    for request in plan.requests:
        if not 0 < request.weight < math.inf:
            raise LoadError(f"{request.name or request.target}: weight {request.weight} must be a number above 0")


def _head(request: Request, host: str) -> bytes:
    """Request line and fields, as they are sent. Raises LoadError for what would not be one request."""
    if not _TARGET.fullmatch(request.target):
        raise LoadError(f"target {request.target!r} must begin with a slash and be percent-encoded ASCII")
    if not _TOKEN.fullmatch(request.method) or request.method in ("HEAD", "CONNECT"):
        raise LoadError(f"method {request.method!r} must be one whose answer has a body, such as GET or POST")
    lines = [f"{request.method} {request.target} HTTP/1.1", f"Host: {host}"]
    for name, value in request.headers.items():
        if name.lower() in ("host", "content-length", "transfer-encoding", "connection", "expect"):
            raise LoadError(f"header {name}: the generator sets it, or does not speak it; leave it out")
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise LoadError(f"header {name!r}: {value!r} must be a token and text without control characters")
        lines.append(f"{name}: {value}")
    if request.body or request.method not in ("GET", "DELETE", "OPTIONS"):
        lines.append(f"Content-Length: {len(request.body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _address(url: str, host: str, port: int, timeout_s: float) -> tuple[int, str]:
    """Family and numeric address of the first of the host's addresses that takes a connection."""
    try:
        with socket.create_connection((host, port), timeout=min(timeout_s, 10.0)) as probe:
            return probe.family, str(probe.getpeername()[0])
    except OSError as error:
        raise NoConnection(f"{url}: no connection: {error.strerror or error}; is the server running there?") from None


def _raise_file_limit(connections: int) -> None:
    wanted = connections + FILES_BESIDE
    if (files := processes.raise_file_limit(wanted)) < wanted:
        raise LoadError(
            f"{connections} connections need {wanted} open files, and the hard limit (ulimit -Hn) is {files}"
        )


def alias_table(weights: Sequence[float]) -> list[tuple[float, int]]:
    """Walker's alias method: [(keep, alias)] such that an evenly drawn index, kept with probability `keep` and else
    exchanged for `alias`, is each index with a probability in proportion to its weight. One draw, whatever their
    number."""
    scale = len(weights) / math.fsum(weights)
    shares = [weight * scale for weight in weights]
    table = [(1.0, index) for index in range(len(weights))]
    small = [index for index, share in enumerate(shares) if share < 1]
    large = [index for index, share in enumerate(shares) if share >= 1]
    while small and large:
        little, much = small.pop(), large[-1]
        table[little] = (shares[little], much)
        shares[much] -= 1 - shares[little]
        if shares[much] < 1:
            small.append(large.pop())
    return table


def _report(plan: Plan, load: Load, timeline: list[Interval], is_interrupted: bool) -> Report:
    counts, histograms = load.counts(), load.histograms()
    measured = counts["measured"]
    failed = {word: measured[word] for word in FAILURES}
    answered = measured["good"] + sum(failed.values()) - failed["unsent"]
    seconds = min(max(counts["elapsed_ns"] / 1e9 - plan.warm_up_s, 0.0), plan.duration_s)
    return Report(
        plan=plan,
        seconds=seconds,
        is_interrupted=is_interrupted,
        sent=measured["sent"],
        good=measured["good"],
        failed=failed,
        warm_up_failed=sum(counts["warm_up"][word] for word in FAILURES),
        unfinished=measured["sent"] - answered,
        rate=counts["ended_good"] / seconds if seconds else 0.0,
        latency=histograms["latency"],
        refused=histograms["refused"],
        lateness=histograms["lateness"],
        statuses=counts["statuses"],
        by_request=counts["requests"],
        connect_errors=counts["connect_errors"],
        connect_error=counts["connect_error"],
        reconnects=counts["reconnects"],
        sent_bytes=counts["sent_bytes"],
        received_bytes=counts["received_bytes"],
        timeline=timeline,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
