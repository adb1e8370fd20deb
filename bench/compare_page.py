"""The page of a comparison and its pictures: `python -m bench.compare_page [RESULT.json]` writes docs/benchmarks.md and
docs/benchmarks/*.svg."""

import itertools
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import plots, points
from bench.errors import BenchError
from bench.peers.catalogue import PEERS
from bench.points import Point
from bench.report import Run, shown, spread, summarize, table
from bench.work import SIZES

RESULT = Path(__file__).parent / "results" / "peers.json"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
OURS = "headrace"
YARDSTICKS = ("bare", "floor")
WEIGHTS_BYTES = 4 * sum(rows * columns for rows, columns in itertools.pairwise(SIZES))  # of an mlp
INTRODUCTION = """# Benchmarks

Rendered from `bench/results/peers.json` by `python -m bench.compare_page`; `make bench-peers` installs the rivals (each
in a virtual environment of its own under `build/peers`), measures and renders. Where we fall short of what we want,
[performance.md](performance.md) says why.

*echo* sends 64 bytes of JSON back. *mlp* takes 2.6 KB of JSON (256 numbers) through a network of 256x256x10 in numpy.
*tensor* takes 602,240 bytes of npy and answers their mean. *batch* is a model whose call takes 1 ms and 20 us a row.
*1kb* to *large* (20 MB) answer the length of a body and a sum over its pages; *mixed* has bodies of 200 bytes to 1 MB.
*many* is mlp of 20 models by Zipf's law, *tls* echo over https. Every server runs the functions of `bench/work.py`, set
up as the table at the end says; Headrace with one worker a model and one frontend. A server is started afresh for each
round and setup and warmed up, its answers are checked before and after the load.

**The load generator runs on the same CPUs as the server.** Closed loops are wrk's with one thread (*many*, *mixed*: the
generator of `headrace bench`). CPU is user and system time of the server's whole tree; memory (PSS) is that of the tree
with all its models loaded. *bare* (uvloop) and *floor* (C, epoll) are yardsticks that do no work and answer a constant.
"""
METRICS = {
    "requests_per_s": ("requests/s", 1.0, 0),
    "p50_us": ("p50 us", 1.0, 0),
    "p99_us": ("p99 us", 1.0, 0),
    "p999_us": ("p99.9 us", 1.0, 0),
    "cpu_us_per_request": ("CPU us/request", 1.0, 1),
    "generator_us_per_request": ("generator's us", 1.0, 1),
    "generator_late_p99_us": ("generator late, p99 us", 1.0, 0),
    "planned_per_s": ("planned/s", 1.0, 0),
    "pss_bytes": ("PSS MB", 1e6, 0),
    "load_ms": ("load, ms", 1.0, 1),
    "load_max_ms": ("slowest, ms", 1.0, 1),
    "silence_ms": ("longest silence, ms", 1.0, 0),
    "failed": ("requests that failed", 1.0, 0),
}
CLOSED = ("requests_per_s", "p50_us", "p99_us", "cpu_us_per_request", "generator_us_per_request", "pss_bytes")
OPEN = ("planned_per_s", "requests_per_s", "p50_us", "p99_us", "p999_us", "generator_late_p99_us")

Rows = Sequence[Run]


def render(result: Mapping[str, Any]) -> str:
    """Markdown: where it was measured, the ratios, pictures, a table for each point, how servers were set up."""
    rows = summarize(result["runs"], ())
    asked = [points.parse(text) for text in result["points"]]
    ordinary = [point for point in asked if point.what not in ("crash", "cold", "memory")]
    closed = [point for point in ordinary if not point.percent]
    parts = [
        INTRODUCTION,
        _where(result, rows),
        "## Against the best rival\n\nMedians of ours over the medians of whichever rival is best at that figure. The "
        "last column is *floor*, which does nothing but answer, over the rival that is best in requests/s.\n\n"
        + _against_the_best(rows, closed),
        "## Against each\n\nOur requests/s over theirs, and in brackets their CPU time a request over ours.\n\n"
        + _against_each(rows, closed),
        _pictures(result),
        "## Requests a CPU second\n\nWhat the server's own CPU time is worth, whatever the load generator takes: the "
        "rate at which the server alone would keep one core busy. On two cores that the generator shares, the faster a "
        "server is, the more of the machine the generator takes from it.\n\n" + _per_cpu_second(rows, closed),
    ]
    for point in closed:
        parts.append(f"## {point.what}, {_plural(point.number, 'connection')}\n\n" + _table(_at(rows, point), CLOSED))
    open_loop = [point for point in ordinary if point.percent]
    if open_loop:
        parts.append(
            "## Latency in an open loop\n\nRequests are sent when planned, at a share of what the same server did in "
            "the closed loop just before; a latency counts from the plan."
        )
    for point in open_loop:
        title = f"### {point.what} at {point.percent} % of capacity, at most {_plural(point.number, 'connection')}"
        parts.append(f"{title}\n\n" + _table(_at(rows, point), OPEN, best="p99_us"))
    parts += _special(result, rows, asked)
    parts.append("## How the rivals were set up\n\n" + _settings(result))
    if missing := _missing(result, asked):
        parts.append("## Not measured\n\n" + table(["server", "points", "reason"], missing))
    return "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n"


def _where(result: Mapping[str, Any], rows: Rows) -> str:
    environment = result["environment"]
    rounds = sorted({row["rounds"] for row in rows})
    number = "-".join(str(count) for count in dict.fromkeys((rounds[0], rounds[-1]))) if rounds else "0"
    return (
        f"{environment['cpu']}, {environment['cpus']} CPUs, {environment['system']}, Python {environment['python']}, "
        f"wrk {environment['wrk']}, commit {(environment['commit'] or 'unknown')[:12]}; load average before the first "
        f"round {environment['load_average']:.1f}. Median of {number} rounds of {result['settings']['seconds']} s "
        f"(lowest..highest), servers interleaved. Command: `{' '.join(environment['command'])}`."
    )


def _at(rows: Rows, point: Point) -> list[Run]:
    return [row for row in rows if (row["scenario"], row["connections"]) == (point.name, point.number)]


def _is_rival(row: Run) -> bool:
    return row["server"] not in (OURS, *YARDSTICKS)


def _ours(rows: Rows) -> Run | None:
    return next((row for row in rows if row["server"] == OURS), None)


def _median(row: Run, metric: str) -> float:
    return float(row[metric]["median"])


def _table(rows: Rows, metrics: Sequence[str], best: str = "requests_per_s") -> str:
    """The best first. Errors are those of all rounds."""
    there = [metric for metric in metrics if any(metric in row for row in rows)]
    ordered = sorted(rows, key=lambda row: _median(row, best) * (-1 if best == "requests_per_s" else 1))
    lines = [
        [row["server"], *(shown(row.get(name), *METRICS[name][1:]) for name in there), str(row["errors"])]
        for row in ordered
    ]
    return table(["server", *(METRICS[name][0] for name in there), "errors"], lines)


def _against_the_best(rows: Rows, closed: Iterable[Point]) -> str:
    lines = []
    for point in closed:
        at = _at(rows, point)
        ours, rivals = _ours(at), [row for row in at if _is_rival(row)]
        if ours and rivals:
            cells = [_best(ours, rivals, metric) for metric in ("requests_per_s", "p99_us", "cpu_us_per_request")]
            floor = next((row for row in at if row["server"] == "floor"), None)
            ceiling = _best(floor, rivals, "requests_per_s").partition(" ")[0] if floor else "-"
            lines.append([point.what, str(point.number), *cells, ceiling])
    return table(["scenario", "connections", "requests/s", "p99", "CPU/request", "floor's requests/s"], lines)


def _best(ours: Run, rivals: Rows, metric: str) -> str:
    choose: Callable[..., Run] = max if metric == "requests_per_s" else min
    best = choose(rivals, key=lambda row: _median(row, metric))
    return f"{_median(ours, metric) / _median(best, metric):.2f}x {best['server']}"


def _by_server(rows: Rows, closed: Iterable[Point], cell: Callable[[Run, Run], str]) -> str:
    """A line for each server, a column for each point: cell(our row, its row)."""
    names = list(dict.fromkeys(row["server"] for row in rows))
    columns = [(point, _at(rows, point)) for point in closed]
    columns = [(point, at) for point, at in columns if _ours(at)]
    lines = []
    for name in names:
        cells = []
        for _, at in columns:
            ours, theirs = _ours(at), next((row for row in at if row["server"] == name), None)
            cells.append(cell(ours, theirs) if ours and theirs else "-")
        if any(each != "-" for each in cells):
            lines.append([name, *cells])
    return table(["server", *(str(point) for point, _ in columns)], lines)


def _against_each(rows: Rows, closed: Iterable[Point]) -> str:
    def cell(ours: Run, theirs: Run) -> str:
        rate = _median(ours, "requests_per_s") / _median(theirs, "requests_per_s")
        cpu = _median(theirs, "cpu_us_per_request") / _median(ours, "cpu_us_per_request")
        return f"{rate:.1f}x ({cpu:.1f}x)"

    return _by_server(rows, closed, cell)


def _per_cpu_second(rows: Rows, closed: Iterable[Point]) -> str:
    def cell(ours: Run, theirs: Run) -> str:
        return f"{1e6 / _median(theirs, 'cpu_us_per_request'):,.0f}"

    return _by_server(rows, closed, cell)


def _pictures(result: Mapping[str, Any]) -> str:
    there = [name for name, figure in plots.FIGURES.items() if figure.data(result)]
    return "\n\n".join(f"![{plots.FIGURES[name].title}](benchmarks/{name}.svg)" for name in there)


def _special(result: Mapping[str, Any], rows: Rows, asked: Iterable[Point]) -> list[str]:
    """Sections of what is no rate."""
    found = []
    memory = plots.memory_data(result)
    if memory:
        found.append("## Memory a further model\n\n" + MEMORY_TEXT + "\n\n" + _memory_table(result, memory))
    for point in asked:
        at = _at(rows, point)
        if point.what == "cold" and at:
            found.append(f"## Cold load\n\n{COLD_TEXT}\n\n" + _table(at, ("load_ms", "load_max_ms"), best="load_ms"))
        if point.what == "crash" and at:
            found.append(f"## A model's process dies under load\n\n{CRASH_TEXT}\n\n" + _crash_table(result, at))
    return found


COLD_TEXT = (
    "From the request that loads one more model (an mlp) to its first right answer; the first load, which brings the "
    "libraries along, is left out."
)
MEMORY_TEXT = (
    f"Copies of mlp ({WEIGHTS_BYTES / 1e3:.0f} KB of weights each), each asked once. The slope is between the least "
    "and the greatest number of models that were measured, round by round."
)
CRASH_TEXT = (
    "Echoes on 16 connections for 8 s; after one second a request kills the process that reads it. Silence is the "
    "longest time in which no request at all was answered. *back*: answers in the last second, in how many rounds."
)


def _memory_table(result: Mapping[str, Any], memory: Mapping[str, Mapping[str, float]]) -> str:
    counts = sorted({int(count) for by_count in memory.values() for count in by_count})
    slopes = {server: _slopes(result["runs"], server) for server in memory}
    lines = []
    ours = spread(slopes[OURS]) if slopes.get(OURS) else None
    for server in sorted(memory, key=lambda name: min(slopes[name], default=0.0)):
        cells = [f"{memory[server][str(n)] / 1e6:,.0f}" if str(n) in memory[server] else "-" for n in counts]
        slope = spread(slopes[server]) if slopes[server] else None
        over = f"{slope['median'] / ours['median']:,.0f}x" if slope and ours else "-"
        beyond = f"{(slope['median'] - WEIGHTS_BYTES) / 1e3:,.0f}" if slope else "-"
        lines.append([server, *cells, shown(slope, 1e3), over, beyond])
    heads = [
        "server",
        *(f"MB with {_plural(n, 'model')}" for n in counts),
        "KB a further model",
        "over Headrace",
        "beyond its weights",
    ]
    return table(heads, lines)


def _slopes(runs: Iterable[Run], server: str) -> list[float]:
    """Bytes a further model, for each round."""
    by_round: dict[int, dict[int, float]] = {}
    for run in runs:
        if (run["scenario"], run["server"]) == ("memory", server):
            by_round.setdefault(run["round"], {})[run["connections"]] = run["pss_bytes"]
    return [
        (by_count[max(by_count)] - by_count[min(by_count)]) / (max(by_count) - min(by_count))
        for by_count in by_round.values()
        if len(by_count) > 1
    ]


def _crash_table(result: Mapping[str, Any], rows: Rows) -> str:
    lines = []
    for row in sorted(rows, key=lambda row: (_median(row, "silence_ms"), _median(row, "failed"))):
        runs = [run for run in result["runs"] if (run["scenario"], run["server"]) == ("crash", row["server"])]
        back = sum(run["is_back"] for run in runs)
        cells = [shown(row[name]) for name in ("failed", "silence_ms", "requests_per_s")]
        lines.append([row["server"], *cells, f"{back} of {len(runs)}"])
    return table(["server", "requests that failed", "longest silence, ms", "requests/s over all", "back"], lines)


def _settings(result: Mapping[str, Any]) -> str:
    lines = [[name, peer["version"], peer["settings"]] for name, peer in result["settings"]["peers"].items()]
    return table(["server", "version", "settings"], lines)


def _missing(result: Mapping[str, Any], asked: Sequence[Point]) -> list[list[str]]:
    """[server, points, reason]: not here, cannot by its nature, or tried in vain."""
    lines = [[name, "all", reason] for name, reason in result["absent"].items()]
    for name in PEERS:
        reasons: dict[str, list[str]] = {}
        for point in asked:
            if reason := points.refusal(name, point):
                reasons.setdefault(reason, []).append(str(point))
        lines += [[name, ", ".join(which), reason] for reason, which in reasons.items()]
    for each in result["failed"]:
        where = f"{each['scenario']}:{each['connections']} in round {each['round']}"
        lines.append([each["server"], where, " ".join(each["reason"].split())])
    return lines


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count > 1)}"


def main(words: Sequence[str]) -> int:
    if len(words) > 1:
        print("usage: python -m bench.compare_page [RESULT.json]", file=sys.stderr)
        return 2
    result = json.loads(Path(words[0] if words else RESULT).read_text())
    try:
        plots.draw(result, PAGE.with_suffix(""))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    PAGE.write_text(render(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
