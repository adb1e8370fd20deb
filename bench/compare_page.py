"""The page of a comparison: `python -m bench.compare_page [RESULT.json] > docs/benchmarks.md`."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.report import Run, shown, summarize, table

RESULT = Path(__file__).parent / "results" / "peers.json"
OURS = "headrace"
YARDSTICKS = ("bare", "floor")
INTRODUCTION = """# Benchmarks

Rendered from `bench/results/peers.json` by `python -m bench.compare_page`; `make bench-peers` installs the rivals (each
in a virtual environment of its own under `build/peers`), measures and renders.

*echo* sends 64 bytes of JSON back. *mlp* takes 2.6 KB of JSON (256 numbers) through a network of 256x256x10 in numpy.
*tensor* takes 602,240 bytes of npy and answers their mean. Every server runs the functions of `bench/work.py`, set up
as the table at the end says; Headrace with one worker a model and one frontend. Load is a closed loop of wrk with one
thread **on the same CPUs as the server**; a server is started afresh each round and warmed up, its answers are checked
before and after the load. CPU is user and system time of the server's whole tree; memory (PSS) is that of the tree with
all models loaded. *bare* (uvloop) and *floor* (C, epoll) are yardsticks that do no work and answer a constant.
"""


def render(result: dict[str, Any]) -> str:
    """Markdown: where it was measured, how servers were set up, a table for each point, and what the ratios are."""
    rows = summarize(result["runs"], ())
    environment, settings = result["environment"], result["settings"]
    rounds = sorted({row["rounds"] for row in rows})
    spread = "-".join(str(count) for count in dict.fromkeys((rounds[0], rounds[-1]))) if rounds else "0"
    parts = [
        INTRODUCTION,
        f"{environment['cpu']}, {environment['cpus']} CPUs, {environment['system']}, Python {environment['python']}, "
        f"wrk {environment['wrk']}, commit {(environment['commit'] or 'unknown')[:12]}; "
        f"load average before the first round {environment['load_average']:.1f}. Median of {spread} rounds "
        f"of {settings['seconds']} s (lowest..highest). Command: `{' '.join(environment['command'])}`.",
        "## Against the best rival\n\n" + _ratios(rows),
    ]
    for scenario, connections in settings["points"]:
        at = [row for row in rows if (row["scenario"], row["connections"]) == (scenario, connections)]
        at.sort(key=lambda row: -row["requests_per_s"]["median"])
        parts.append(f"## {scenario}, {connections} connection{'s' * (connections > 1)}\n\n" + _table(at))
    lines = [[name, peer["version"], peer["settings"]] for name, peer in settings["peers"].items()]
    parts.append("## How the rivals were set up\n\n" + table(["server", "version", "settings"], lines))
    if result["absent"]:
        reasons = [[name, reason.replace("\n", " ")] for name, reason in result["absent"].items()]
        parts.append("## Not measured here\n\n" + table(["server", "reason"], reasons))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _table(rows: Sequence[Run]) -> str:
    heads = ["server", "requests/s", "p50 us", "p99 us", "CPU us/request", "PSS MB", "errors"]
    lines = [
        [
            row["server"],
            *(shown(row[metric]) for metric in ("requests_per_s", "p50_us", "p99_us")),
            shown(row["cpu_us_per_request"], digits=1),
            shown(row["pss_bytes"], 1e6),
            str(row["errors"]),
        ]
        for row in rows
    ]
    return table(heads, lines)


def _ratios(rows: Sequence[Run]) -> str:
    """Medians of ours over the medians of whichever rival is best at that figure."""
    lines = []
    for ours in (row for row in rows if row["server"] == OURS):
        key = (ours["scenario"], ours["connections"])
        rivals = [
            row
            for row in rows
            if (row["scenario"], row["connections"]) == key and row["server"] not in (OURS, *YARDSTICKS)
        ]
        if rivals:
            cells = [_best(ours, rivals, metric) for metric in ("requests_per_s", "p99_us", "cpu_us_per_request")]
            lines.append([ours["scenario"], str(ours["connections"]), *cells])
    return table(["scenario", "connections", "requests/s", "p99", "CPU/request"], lines)


def _best(ours: Run, rivals: Sequence[Run], metric: str) -> str:
    choose = max if metric == "requests_per_s" else min
    best = choose(rivals, key=lambda row: row[metric]["median"])
    return f"{ours[metric]['median'] / best[metric]['median']:.2f}x {best['server']}"


def main(words: Sequence[str]) -> int:
    if len(words) > 1:
        print("usage: python -m bench.compare_page [RESULT.json]", file=sys.stderr)
        return 2
    print(render(json.loads(Path(words[0] if words else RESULT).read_text())), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
