"""`headrace bench --report FILE`: what became of a run as a picture (.png) or a page of its own (.html).

Both have the same two plots: good answers a second and latencies over the run, and latency by percentile, on an axis
on which each further nine takes the same room. matplotlib draws them; only this module imports it.
"""

from __future__ import annotations

import html
import io
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from headrace.client import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from headrace.loadgen import Report

SUFFIXES = (".html", ".png")
_NINES = (0, 50, 90, 99, 99.9, 99.99, 99.999)
_POINTS = 200  # of the line of percentiles
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }}
pre {{ background: #f4f4f4; padding: 1rem; overflow-x: auto; }}
table {{ border-collapse: collapse; }}
td, th {{ border-bottom: 1px solid #ddd; padding: .3rem 1rem .3rem 0; text-align: left; }}
.missed {{ color: #b00020; font-weight: bold; }}
svg {{ max-width: 100%; height: auto; }}
</style>
<h1>{title}</h1>
{objectives}
{plots}
<pre>{text}</pre>
</html>
"""


def check(path: str) -> None:
    """Before the run, whose results would be lost. Raises UsageError."""
    if os.path.splitext(path)[1].lower() not in SUFFIXES:
        raise UsageError(f"--report {path}: its name must end in {' or '.join(SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401 - is it there?
    except ImportError:
        raise UsageError("--report needs matplotlib: pip install 'headrace[bench]', or use --json") from None


def render(path: str, report: Report, text: str, objectives: Sequence[tuple[str, bool]]) -> bytes:
    """The file's content, of the kind that its name asks for. text: the report for people; objectives: (text, met)."""
    figure = _draw(report)
    file = io.BytesIO()
    if path.lower().endswith(".png"):
        figure.savefig(file, format="png", dpi=120)
        return file.getvalue()
    figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue().decode()
    rows = "".join(f"<tr><td class={'met' if met else 'missed'}>{html.escape(it)}</td></tr>" for it, met in objectives)
    return _PAGE.format(
        title=html.escape(f"Load on {report.plan.url}"),
        objectives=f"<table><tr><th>objectives</th></tr>{rows}</table>" if rows else "",
        plots=svg[svg.index("<svg") :],
        text=html.escape(text),
    ).encode()


def _draw(report: Report) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8), layout="constrained")
    over_time, by_percentile = figure.subplots(2, 1)
    _draw_timeline(over_time, report)
    _draw_percentiles(by_percentile, report)
    return figure


def _draw_timeline(axes: Any, report: Report) -> None:
    spans = [interval for interval in report.timeline if interval.seconds > 0]
    ends = [interval.at_s for interval in spans]
    edges = [spans[0].at_s - spans[0].seconds, *ends] if spans else [0.0]
    axes.stairs(
        [interval.good / interval.seconds for interval in spans],
        edges,
        baseline=None,
        linewidth=1.5,
        label="good answers/s",
    )
    failed = [interval.failed / interval.seconds for interval in spans]
    if any(failed):
        axes.stairs(failed, edges, baseline=None, linewidth=1.5, color="tab:red", label="failures/s")
    if report.plan.rate is not None:
        axes.axhline(report.plan.rate, color="gray", linestyle=":", label="planned/s")
    if report.plan.warm_up_s:
        axes.axvspan(0, report.plan.warm_up_s, color="0.93", zorder=0, label="warm-up")
    axes.set(xlabel="seconds since the start", ylabel="requests a second", ylim=(0, None))
    latency = axes.twinx()
    latency.plot(ends, [interval.p99_ms for interval in spans], color="tab:orange", label="p99")
    latency.plot(ends, [interval.p50_ms for interval in spans], color="tab:green", label="p50")
    latency.set(ylabel="milliseconds", ylim=(0, None))
    (rates, of_rates), (times, of_times) = axes.get_legend_handles_labels(), latency.get_legend_handles_labels()
    latency.legend(rates + times, of_rates + of_times, loc="lower right")


def _draw_percentiles(axes: Any, report: Report) -> None:
    most = math.log10(max(10, report.latency.count))
    percents = [100 * (1 - 10 ** -(most * step / _POINTS)) for step in range(_POINTS + 1)]
    points = [(percent, report.percentile_ms(percent)) for percent in percents]
    shown = [(_nines(percent), ms) for percent, ms in points if math.isfinite(ms)]
    axes.plot([at for at, _ in shown], [ms for _, ms in shown])
    ticks = [percent for percent in _NINES if _nines(percent) <= most]
    axes.set_xticks([_nines(percent) for percent in ticks], [f"{percent:g} %" for percent in ticks])
    axes.set(xlabel="share of the requests", ylabel="milliseconds, at most", ylim=(0, None))
    axes.grid(True, alpha=0.3)


def _nines(percent: float) -> float:
    """90 -> 1, 99 -> 2, 99.9 -> 3."""
    return -math.log10(max(1e-12, 1 - percent / 100))
