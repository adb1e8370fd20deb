"""From runs to figures, and from figures to a page: `python -m bench.report RESULT.json` prints Markdown;
with `--short`, the part that the README shows.

A run is a JSON object with round, scenario, connections, server, errors and some of METRICS. Ratios are taken within a
round, between runs that followed each other closely, because a machine drifts more between rounds than servers differ.
"""

import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Run = dict[str, Any]

IDLE = "idle"  # the scenario without load
METRICS = (
    "requests_per_s",
    "p50_us",
    "p99_us",
    "p999_us",
    "cpu_us_per_request",
    "pss_bytes",
    "start_ms",
    "idle_cpu_percent",
    "bytes_per_connection",
    "generator_us_per_request",
    "generator_late_p99_us",
    "planned_per_s",
    "load_ms",
    "load_max_ms",
    "silence_ms",
    "failed",
)
COMPARED = ("requests_per_s", "p50_us", "cpu_us_per_request")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, low and high of at least one value."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def ratios(runs: Iterable[Run], others: Iterable[Run], metric: str) -> list[float]:
    """*metric* of each run over that of the other server's run in the same round; rounds without both are left out."""
    theirs = {run["round"]: run[metric] for run in others}
    return [run[metric] / theirs[run["round"]] for run in runs if theirs.get(run["round"])]


def summarize(runs: Iterable[Run], yardsticks: Sequence[str]) -> list[Run]:
    """One row for each scenario, number of connections and server, in the order of their first runs."""
    groups: dict[tuple[str, int, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run["scenario"], run["connections"], run["server"]), []).append(run)
    rows = []
    for (scenario, connections, server), group in groups.items():
        row: Run = {
            "scenario": scenario,
            "connections": connections,
            "server": server,
            "rounds": len(group),
            "errors": sum(sum(run["errors"].values()) for run in group),
        }
        row |= {metric: spread([run[metric] for run in group]) for metric in METRICS if metric in group[0]}
        for yardstick in yardsticks:
            others = groups.get((scenario, connections, yardstick), [])
            if yardstick != server and scenario != IDLE:
                found = {metric: ratios(group, others, metric) for metric in COMPARED}
                row[f"over_{yardstick}"] = {metric: spread(values) for metric, values in found.items() if values}
        rows.append(row)
    return rows


def render(result: dict[str, Any]) -> str:
    """The page of one result, in Markdown."""
    rows: list[Run] = result["summary"]
    loaded = [row for row in rows if row["scenario"] != IDLE]
    idle = [row for row in rows if row["scenario"] == IDLE]
    parts = [_introduction(result["environment"], result["settings"])]
    for scenario in dict.fromkeys(row["scenario"] for row in loaded):
        parts.append(f"### {scenario}\n\n" + _load_table([row for row in loaded if row["scenario"] == scenario]))
    for yardstick in result["settings"]["yardsticks"]:
        compared = [row for row in loaded if row.get(f"over_{yardstick}")]
        if compared:
            parts.append(f"### over {yardstick}, round by round\n\n" + _ratio_table(compared, f"over_{yardstick}"))
    if idle:
        parts.append("### at rest\n\n" + _idle_table(idle))
    return "\n\n".join(parts) + "\n"


def short(result: dict[str, Any]) -> str:
    """The README's table of one result, in Markdown: every scenario beside both yardsticks, whoever is ahead."""
    environment, settings = result["environment"], result["settings"]
    names = settings["yardsticks"]
    heads = ["scenario", "connections", "requests/s", "p50 us", "p99 us", "CPU us/request"]
    heads += [f"{what} over *{name}*" for name in names for what in ("requests/s", "CPU")]
    rows = [row for row in result["summary"] if row["server"] == "headrace" and row["scenario"] != IDLE]
    lines = []
    for row in rows:
        ratio = [
            row.get(f"over_{name}", {}).get(key) for name in names for key in ("requests_per_s", "cpu_us_per_request")
        ]
        lines.append(
            [row["scenario"], str(row["connections"])]
            + [shown(row[metric]) for metric in ("requests_per_s", "p50_us", "p99_us")]
            + [shown(row["cpu_us_per_request"], digits=1), *(shown(figure, digits=2) for figure in ratio)]
        )
    (rest,) = (row for row in result["summary"] if row["server"] == "headrace" and row["scenario"] == IDLE)
    return (
        f"One worker and one frontend on {environment['cpus']} CPUs ({environment['cpu']}), the load generator beside "
        f"them: median of {settings['rounds']} rounds (lowest..highest).\n\n{table(heads, lines)}\n\n"
        f"Start to the first 200: {shown(rest['start_ms'])} ms. At rest: {shown(rest['idle_cpu_percent'], digits=2)} "
        f"% of a core; an idle connection takes {shown(rest['bytes_per_connection'])} bytes. Command: "
        f"`{' '.join(environment['command'])}`.\n"
    )


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *lines))


def shown(figure: dict[str, float] | None, scale: float = 1, digits: int = 0) -> str:
    """`median (low..high)`, each divided by *scale*; a dash for what was not measured."""
    if figure is None:
        return "-"
    median, low, high = (f"{figure[key] / scale:,.{digits}f}" for key in ("median", "low", "high"))
    return median if low == high else f"{median} ({low}..{high})"


def _introduction(environment: dict[str, Any], settings: dict[str, Any]) -> str:
    commit = (environment["commit"] or "unknown")[:12] + (" with changes" if environment["is_modified"] else "")
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    governor = environment["governor"] or "unknown"
    return (
        f"{environment['cpu']}, {environment['cpus']} CPUs, governor {governor}, {environment['system']}; "
        f"Python {environment['python']}, {packages}; wrk {environment['wrk']}, on the same CPUs as the servers. "
        f"Commit {commit}. Median of {settings['rounds']} rounds of {settings['seconds']} s (lowest..highest), a fresh "
        f"server for each point, servers interleaved.\n\nCommand: `{' '.join(environment['command'])}`"
    )


def _load_table(rows: Sequence[Run]) -> str:
    heads = [
        "connections",
        "server",
        "requests/s",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "CPU us/request",
        "PSS MB",
        "errors",
    ]
    lines = [
        [
            str(row["connections"]),
            row["server"],
            *(shown(row[metric]) for metric in ("requests_per_s", "p50_us", "p99_us", "p999_us")),
            shown(row["cpu_us_per_request"], digits=1),
            shown(row["pss_bytes"], 1e6, 1),
            str(row["errors"]),
        ]
        for row in rows
    ]
    return table(heads, lines)


def _ratio_table(rows: Sequence[Run], key: str) -> str:
    heads = ["scenario", "connections", "server", "requests/s", "p50", "CPU/request"]
    lines = [
        [row["scenario"], str(row["connections"]), row["server"]]
        + [shown(row[key].get(metric), digits=2) for metric in COMPARED]
        for row in rows
    ]
    return table(heads, lines)


def _idle_table(rows: Sequence[Run]) -> str:
    heads = [
        "server",
        "start to first 200, ms",
        "idle CPU, % of one",
        "PSS after load, MB",
        "PSS bytes/idle connection",
    ]
    lines = [
        [
            row["server"],
            shown(row["start_ms"]),
            shown(row["idle_cpu_percent"], digits=2),
            shown(row["pss_bytes"], 1e6, 1),
            shown(row["bytes_per_connection"]),
        ]
        for row in rows
    ]
    return table(heads, lines)


def main(arguments: Sequence[str]) -> int:
    page = short if "--short" in arguments else render
    paths = [argument for argument in arguments if argument != "--short"]
    if len(paths) != 1:
        print("usage: python -m bench.report [--short] RESULT.json", file=sys.stderr)
        return 2
    print(page(json.loads(Path(paths[0]).read_text())), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
