"""What `headrace top` shows: each model's and worker's rates since the look before, joined with what they are.

look() asks the server for /overview and /metrics; a View keeps the last two and makes rows of them, and
frames for programs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from headrace.client import Client, Unreachable
from headrace.rates import Between, Scrape, ScrapeError

ASK_S = 10.0  # the longest that a server may take to answer
ORDERS = ("requests", "latency", "errors", "under-way", "memory", "name")
OTHER = "other"  # the series of all models that have none of their own (labels.py)


@dataclass(frozen=True, slots=True)
class Row:
    """A model. Rates are a second, times in seconds; nan = nothing is known: no series of its own, or no request."""

    name: str
    status: str
    replicas: str
    memory_bytes: int
    in_flight: int
    requests: float
    errors: float
    queue_p99: float
    compute_p50: float
    p50: float
    p99: float
    batch: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Look:
    """What a server said: the document of /overview, and the page of /metrics."""

    overview: dict[str, Any]
    scrape: Scrape


def look(client: Client) -> Look:
    """Ask the server. Raises ClientError."""
    try:
        overview = client.get("overview", timeout_s=ASK_S)
        page = client.text("GET", "metrics", timeout_s=ASK_S)
        scrape = Scrape.parse(page, time.monotonic())
        overview["server"]["started"], overview["memory"]["limit_bytes"]
    except (ScrapeError, KeyError, TypeError) as error:
        raise Unreachable(f"{client.url} is no Headrace of this version: {error}") from None
    return Look(overview, scrape)


class View:
    """What is shown: the last look, what happened since the one before, and the order of models."""

    def __init__(self, url: str, sort: str) -> None:
        self.url = url
        self.sort = sort
        self.first = 0  # of the models that are shown
        self.trouble = ""  # why there is no newer look
        self.overview: dict[str, Any] = {}
        self.between: Between | None = None

    def take(self, latest: Look) -> None:
        same = self.overview and self.overview["server"]["started"] == latest.overview["server"]["started"]
        before = self.between.after if self.between is not None and same else None
        self.overview, self.between, self.trouble = latest.overview, Between(before, latest.scrape), ""

    def rows(self) -> list[Row]:
        """Of all models, in order; last what those without series of their own did together."""
        named = {name for (name,) in self._between.after.by("headrace_model_in_flight", ("model",))}
        models = self.overview["models"]
        rows = [self._row(model, has_series=model["name"] in named) for model in models]
        keys: dict[str, Callable[[Row], float]] = {
            "requests": lambda row: row.requests,
            "latency": lambda row: row.p99,
            "errors": lambda row: row.errors,
            "memory": lambda row: row.memory_bytes,
            "under-way": lambda row: row.in_flight,
        }
        rows.sort(key=lambda row: row.name)
        if self.sort in keys:
            rows.sort(key=lambda row: -or_zero(keys[self.sort](row)))
        if OTHER in named and any(model["name"] not in named for model in models):
            rest = {"name": f"({OTHER})", "status": "", "workers": [], "most": 0, "charge_bytes": 0, "in_flight": 0}
            rows.append(self._row(rest, has_series=True, label=OTHER))
        return rows

    @property
    def _between(self) -> Between:
        assert self.between is not None, "nothing was taken yet"
        return self.between

    def _row(self, model: dict[str, Any], has_series: bool, label: str = "") -> Row:
        label = label or model["name"]
        between = self._between

        def known(value: Callable[[], float]) -> float:
            return value() if has_series and between.seconds > 0 else math.nan

        def quantile(q: float, name: str) -> float:
            return known(lambda: between.quantile(q, name, model=label))

        by_status = between.increases("headrace_requests_total", ("status",), model=label) if has_series else {}
        failed = sum(count for (status,), count in by_status.items() if status.startswith("5"))
        return Row(
            name=model["name"],
            status=model["status"],
            replicas=f"{len(model['workers'])}/{model['most']}" if model["most"] else "",
            memory_bytes=model["charge_bytes"],
            in_flight=model["in_flight"],
            requests=known(lambda: sum(by_status.values()) / between.seconds),
            errors=known(lambda: failed / between.seconds),
            queue_p99=quantile(0.99, "headrace_queue_seconds"),
            compute_p50=quantile(0.5, "headrace_compute_seconds"),
            p50=quantile(0.5, "headrace_request_seconds"),
            p99=quantile(0.99, "headrace_request_seconds"),
            batch=known(lambda: between.mean("headrace_batch_rows", model=label)),
            bytes=known(
                lambda: (
                    between.rate("headrace_request_bytes_total", model=label)
                    + between.rate("headrace_response_bytes_total", model=label)
                )
            ),
        )

    def workers(self) -> list[dict[str, Any]]:
        """The overview's, with `busy` (share of the time, 0 to 1) and `requests` (a second)."""
        busy = {worker: n for (worker,), n in self._rates("headrace_worker_busy_seconds_total").items()}
        requests = {worker: n for (worker,), n in self._rates("headrace_worker_requests_total").items()}
        return [
            {
                **worker,
                "busy": min(1.0, busy.get(str(worker["worker"]), math.nan)),
                "requests": requests.get(str(worker["worker"]), math.nan),
            }
            for worker in self.overview["workers"]
        ]

    def _rates(self, name: str) -> dict[tuple[str, ...], float]:
        between = self._between
        if between.seconds <= 0:
            return {}
        return {key: n / between.seconds for key, n in between.increases(name, ("worker",)).items()}

    def totals(self) -> dict[str, float]:
        """Of all requests: a second, but for connections and unanswered, which are now."""
        between = self._between
        by_status = between.increases("headrace_answers_total", ("status",)) if between.seconds > 0 else {}

        def share(hundred: str) -> float:
            found = sum(n for (status,), n in by_status.items() if status.startswith(hundred))
            return found / between.seconds if between.seconds > 0 else math.nan

        return {
            "answers": share(""),
            "answers_4xx": share("4"),
            "answers_5xx": share("5"),
            "overloaded": between.rate("headrace_overloaded_total"),
            "restarts": between.increase("headrace_worker_restarts_total") if between.seconds > 0 else 0.0,
            "connections": between.after.value("headrace_connections"),
            "unanswered": between.after.value("headrace_unanswered_requests"),
        }

    def document(self) -> dict[str, Any]:
        """A frame for programs: nan is null."""
        frame = {
            "time": self.overview["server"]["time"],
            "seconds": self._between.seconds,
            "totals": self.totals(),
            "memory": self.overview["memory"],
            "workers": self.workers(),
            "models": [asdict(row) for row in self.rows()],
        }
        plain: dict[str, Any] = _without_nan(frame)
        return plain


def or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
