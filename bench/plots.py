"""Pictures of a comparison, drawn with matplotlib from its result alone.

Each file names, in its description, a hash of the figures that it shows. So whoever has no matplotlib, a test above
all, can tell whether the pictures are of this result; and they do not change when nothing did.
"""

import hashlib
import json
import re
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.scenarios import SIZES

BARS = (("echo", 64), ("mlp", 64), ("tensor", 16))
LINES = ("echo@80%", "mlp@80%", "tensor@80%")
YARDSTICKS = ("floor", "bare")
COLOURS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#999933", "#882255", "#44aa99", "#ddaa33")
OURS_COLOUR, YARDSTICK_COLOUR = "#000000", "#999999"
STYLE: Any = {
    "svg.hashsalt": "headrace",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_HASH = re.compile(r"figures ([0-9a-f]{64})")

Result = Mapping[str, Any]
Data = dict[str, Any]


def _values(result: Result, metric: str, scenario: str, number: int | None = None) -> dict[str, list[Any]]:
    """By server, of the runs at this point; any number without one."""
    found: dict[str, list[Any]] = {}
    for run in result["runs"]:
        if metric in run and run["scenario"] == scenario and number in (None, run["connections"]):
            found.setdefault(run["server"], []).append(run[metric])
    return found


def throughput_data(result: Result) -> Data:
    """point -> server -> [median, lowest, highest] requests/s, the best first."""
    data: Data = {}
    for name, number in BARS:
        rates = _values(result, "requests_per_s", name, number)
        bars = {server: [statistics.median(each), min(each), max(each)] for server, each in rates.items()}
        if bars:
            data[f"{name}, {number} connections"] = dict(sorted(bars.items(), key=lambda bar: -bar[1][0]))
    return data


def latency_data(result: Result) -> Data:
    """point -> server -> percentile -> us, the median over rounds."""
    data: Data = {}
    for name in LINES:
        by_server = _values(result, "percentiles_us", name)
        if by_server:
            data[name] = {
                server: {percent: statistics.median(each[percent] for each in rounds) for percent in rounds[0]}
                for server, rounds in by_server.items()
            }
    return data


def memory_data(result: Result) -> Data:
    """server -> number of models -> bytes, the median over rounds."""
    counts = sorted({run["connections"] for run in result["runs"] if run["scenario"] == "memory"})
    data: Data = {}
    for count in counts:
        sizes = _values(result, "pss_bytes", "memory", count)
        for server, each in sizes.items():
            data.setdefault(server, {})[str(count)] = statistics.median(each)
    return data


def payload_data(result: Result) -> Data:
    """server -> bytes of a body -> CPU us a request, the median over rounds."""
    data: Data = {}
    for name, size in SIZES.items():
        costs = _values(result, "cpu_us_per_request", name)
        for server, each in costs.items():
            data.setdefault(server, {})[str(size)] = statistics.median(each)
    return data


def _draw_throughput(figure: Any, data: Data) -> None:
    for axes, (point, bars) in zip(_panels(figure, len(data)), data.items(), strict=True):
        names = list(bars)[::-1]
        medians = [bars[name][0] for name in names]
        spreads = [[bars[name][0] - bars[name][1] for name in names], [bars[name][2] - bars[name][0] for name in names]]
        axes.barh(names, medians, xerr=spreads, color=[_look(name, names)["color"] for name in names], ecolor="#555555")
        axes.set_xscale("log")
        axes.set_xlim(left=10)
        axes.set_title(point)
        axes.set_xlabel("requests/s, lowest to highest")


def _draw_latency(figure: Any, data: Data) -> None:
    everyone = sorted({server for by_server in data.values() for server in by_server})
    for axes, (point, by_server) in zip(_panels(figure, len(data)), data.items(), strict=True):
        for server, percentiles in by_server.items():
            # A percentile p stands at 1 / (1 - p), as is usual: each nine takes as much room as the one before.
            shown = [(100 / (100 - float(p)), us) for p, us in percentiles.items() if 0 < float(p) < 100]
            axes.plot(*zip(*shown, strict=True), label=server, **_look(server, everyone))
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks([2, 10, 100, 1000, 10_000], ["50 %", "90 %", "99 %", "99.9 %", "99.99 %"])
        axes.minorticks_off()
        axes.set_title(point.replace("@", " at ") + " of capacity")
        axes.set_xlabel("percentile")
        axes.set_ylabel("latency from the plan, us")
    _legend(figure)


def _draw_curves(figure: Any, data: Data, across: str, scale: str, up: str) -> None:
    (axes,) = _panels(figure, 1)
    for server, by_number in data.items():
        axes.plot(
            [int(number) for number in by_number],
            list(by_number.values()),
            label=server,
            marker="o",
            markersize=3,
            **_look(server, sorted(data)),
        )
    axes.set_xscale(scale)
    axes.set_yscale("log")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    _legend(figure)


def _draw_memory(figure: Any, data: Data) -> None:
    scaled = {server: {n: size / 1e6 for n, size in by_number.items()} for server, by_number in data.items()}
    _draw_curves(figure, scaled, "models", "linear", "PSS of all processes, MB")


def _draw_payload(figure: Any, data: Data) -> None:
    _draw_curves(figure, data, "bytes of a body", "log", "CPU us a request")


def _panels(figure: Any, count: int) -> list[Any]:
    return list(figure.subplots(1, count, squeeze=False)[0])


def _look(server: str, everyone: Iterable[str]) -> dict[str, Any]:
    """Colour and line of a server, the same in every picture of the same servers."""
    if server == "headrace":
        return {"color": OURS_COLOUR, "linewidth": 2.2}
    if server in YARDSTICKS:
        return {"color": YARDSTICK_COLOUR, "linewidth": 1.0, "linestyle": ("--", ":")[YARDSTICKS.index(server)]}
    rivals = sorted(name for name in everyone if name != "headrace" and name not in YARDSTICKS)
    index = rivals.index(server)
    line = "-" if index < len(COLOURS) else "-."
    return {"color": COLOURS[index % len(COLOURS)], "linewidth": 1.0, "linestyle": line}


def _legend(figure: Any) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)


@dataclass(frozen=True)
class Figure:
    """data: what is shown, of a result; nothing to show: empty. inches: width and height."""

    title: str
    data: Callable[[Result], Data]
    draw: Callable[[Any, Data], None]
    inches: tuple[float, float]


#: By the name of its file.
FIGURES: dict[str, Figure] = {
    "throughput": Figure("requests/s with spread", throughput_data, _draw_throughput, (12.0, 3.6)),
    "latency": Figure("latency by percentile, open loop", latency_data, _draw_latency, (12.0, 3.8)),
    "memory": Figure("memory by number of models", memory_data, _draw_memory, (7.5, 4.0)),
    "payload": Figure("CPU time by size of the body", payload_data, _draw_payload, (7.5, 4.0)),
}


def fingerprint(data: Data) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def stale(result: Result, folder: Path) -> list[str]:
    """Names of the pictures in *folder* that are missing, or do not show this result."""
    found = []
    for name, figure in FIGURES.items():
        if data := figure.data(result):
            file = folder / f"{name}.svg"
            match = _HASH.search(file.read_text()) if file.exists() else None
            if match is None or match[1] != fingerprint(data):
                found.append(name)
    return found


def draw(result: Result, folder: Path) -> None:
    """Draw those that are stale. BenchError without matplotlib."""
    wanted = stale(result, folder)
    if not wanted:
        return
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        raise BenchError("matplotlib, which draws the pictures, is not here: pip install 'headrace[bench]'") from None
    folder.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        figure = FIGURES[name]
        data = figure.data(result)
        with rc_context(STYLE):
            canvas = Canvas(figsize=figure.inches, layout="constrained")
            figure.draw(canvas, data)
            metadata = {"Date": None, "Title": figure.title, "Description": f"figures {fingerprint(data)}"}
            canvas.savefig(folder / f"{name}.svg", metadata=metadata)
