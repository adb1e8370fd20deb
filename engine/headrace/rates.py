"""What happened between two scrapes of /metrics: rates, means and quantiles, as a person wants to read them.

A count that went down began anew with the process that keeps it, so all of it is new (as Prometheus's rate() has it).
A quantile is interpolated within its bucket (as histogram_quantile() has it); of counts beyond the last bound nothing
is known but that they are above it, so the bound is told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SAMPLES_MOST = 200_000  # series of a page; a server names 100 models unless told otherwise, some 80 series each

Labels = tuple[tuple[str, str], ...]


class ScrapeError(ValueError):
    """A page that is no exposition of metrics."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """One page. at_s: when it was taken, on any clock that only goes forward; series: by name, then by labels."""

    at_s: float
    series: Mapping[str, Mapping[Labels, float]]

    @classmethod
    def parse(cls, page: str, at_s: float) -> Scrape:
        """Of a page in Prometheus's text format. Raises ScrapeError."""
        from prometheus_client.parser import text_string_to_metric_families

        series: dict[str, dict[Labels, float]] = {}
        count = 0
        try:
            for family in text_string_to_metric_families(page):
                for sample in family.samples:
                    count += 1
                    if count > SAMPLES_MOST:
                        raise ScrapeError(f"more than {SAMPLES_MOST} series")
                    series.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
        except ScrapeError:
            raise
        except Exception as error:  # the parser raises what it stumbles over: ValueError, IndexError, KeyError
            raise ScrapeError(f"not in Prometheus's text format: {error}") from None
        return cls(at_s, series)

    def value(self, name: str, **labels: str) -> float:
        """The sum of all series of this name that have these labels; 0 without any."""
        return sum(self.by(name, (), **labels).values())

    def by(self, name: str, keep: Iterable[str], **labels: str) -> dict[tuple[str, ...], float]:
        """Likewise, apart for each combination of values of the labels *keep*."""
        wanted, kept = set(labels.items()), tuple(keep)
        sums: dict[tuple[str, ...], float] = {}
        for pairs, value in self.series.get(name, {}).items():
            if wanted.issubset(pairs):
                of = dict(pairs)
                key = tuple(of.get(label, "") for label in kept)
                sums[key] = sums.get(key, 0.0) + value
        return sums


@dataclass(frozen=True, slots=True)
class Between:
    """From *before* to *after*. Without a *before*: no time has passed, and all rates are unknown (nan)."""

    before: Scrape | None
    after: Scrape

    @property
    def seconds(self) -> float:
        return self.after.at_s - self.before.at_s if self.before is not None else 0.0

    def rate(self, name: str, **labels: str) -> float:
        """Counts a second; nan when no time has passed."""
        return self.increase(name, **labels) / self.seconds if self.seconds > 0 else math.nan

    def increase(self, name: str, **labels: str) -> float:
        return sum(self.increases(name, (), **labels).values())

    def increases(self, name: str, keep: Iterable[str], **labels: str) -> dict[tuple[str, ...], float]:
        """By the values of the labels *keep*. 0 for a series that stood still; all of it for one that is new."""
        wanted, kept = set(labels.items()), tuple(keep)
        old = self.before.series.get(name, {}) if self.before is not None else {}
        sums: dict[tuple[str, ...], float] = {}
        for pairs, value in self.after.series.get(name, {}).items():
            if wanted.issubset(pairs):
                of = dict(pairs)
                key = tuple(of.get(label, "") for label in kept)
                then = old.get(pairs, 0.0)
                sums[key] = sums.get(key, 0.0) + (value - then if value >= then else value)
        return sums

    def mean(self, name: str, **labels: str) -> float:
        """Of the values that a histogram counted meanwhile; nan without any."""
        count = self.increase(f"{name}_count", **labels)
        return self.increase(f"{name}_sum", **labels) / count if count else math.nan

    def quantile(self, q: float, name: str, **labels: str) -> float:
        """Of the values that a histogram counted meanwhile, q from 0 to 1; nan without any."""
        steps = sorted((float(bound), n) for (bound,), n in self.increases(f"{name}_bucket", ("le",), **labels).items())
        if not steps or steps[-1][1] <= 0:
            return math.nan
        rank = q * steps[-1][1]
        low, below = 0.0, 0.0
        for bound, upto in steps:
            if upto >= rank and upto > below:
                return low if math.isinf(bound) else low + (bound - low) * (rank - below) / (upto - below)
            low, below = (low, below) if math.isinf(bound) else (bound, upto)
        return low
