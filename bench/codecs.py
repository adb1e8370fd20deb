"""The codecs beside what they replace: `python -m bench.codecs` writes bench/results/codecs.json.

Runs bench/micro/test_codec_bench.py and keeps, for each group of the same work, the time of each way in microseconds
and how many times as long as Headrace it takes. Members of a group run one after the other in one process. The least
time is what is compared: on a machine with neighbours it moves least; the median and the quartiles' distance stand
beside it.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import environment

RESULT = environment.ROOT / "bench" / "results" / "codecs.json"
OURS = "headrace"


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """Groups of a pytest-benchmark report, each with the times of its members and their ratio to OURS."""
    groups: dict[str, Any] = {}
    for run in report["benchmarks"]:
        stats = run["stats"]
        groups.setdefault(run["group"], {})[run["params"]["how"]] = {
            "least_us": round(stats["min"] * 1e6, 2),
            "median_us": round(stats["median"] * 1e6, 2),
            "iqr_us": round(stats["iqr"] * 1e6, 2),
            "rounds": stats["rounds"],
        }
    for members in groups.values():
        for times in members.values():
            times["times_headrace"] = round(times["least_us"] / members[OURS]["least_us"], 2)
    return groups


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        command = ["-m", "pytest", "bench/micro/test_codec_bench.py", "--benchmark-enable", "--benchmark-only", "-q"]
        done = subprocess.run(
            [sys.executable, *command, f"--benchmark-json={raw}", *sys.argv[1:]], cwd=environment.ROOT
        )
        if done.returncode:
            return done.returncode
        groups = summary(json.loads(raw.read_text()))
    result = {"environment": environment.describe(["python", "-m", "bench.codecs", *sys.argv[1:]]), "groups": groups}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    for group, members in groups.items():
        print(f"{group}: " + ", ".join(f"{how} {times['times_headrace']}" for how, times in members.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
