"""Instructions of each operation against the committed ones: a regression guard that no noise reaches.

    python -m bench.guard [--update] [NAME ...]

Runs bench.micro.operations under callgrind and compares instructions per operation with bench/micro/instructions.json.
More than GROWTH is a failure, which names the functions that grew. Counts depend on compiler, interpreter and
libraries: the file says of which; with others the table is printed and nothing is judged.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import BenchError
from bench.micro.operations import COUNTED, OPERATIONS

COUNTS = Path(__file__).parent / "micro" / "instructions.json"
GROWTH = 1.05
FUNCTIONS = 12  # the costliest of an operation that are kept, to name what grew
SLACK = 25  # instructions that a single small function may grow by


def main() -> int:
    parser = argparse.ArgumentParser("python -m bench.guard", description="Count the instructions of each operation.")
    parser.add_argument("--update", action="store_true", help="write the counts instead of comparing them")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(OPERATIONS)}; all without")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(OPERATIONS):
        parser.error(f"there is no {sorted(unknown)}; there are {', '.join(OPERATIONS)}")
    try:
        found = count(arguments.names)
    except BenchError as error:
        print(f"bench.guard: {error}", file=sys.stderr)
        return 2
    committed = json.loads(COUNTS.read_text()) if COUNTS.exists() else {"environment": {}, "operations": {}}
    if arguments.update:
        document = {"environment": environment(), "operations": {**committed["operations"], **found}}
        COUNTS.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
        print(f"wrote {COUNTS.relative_to(Path.cwd()) if COUNTS.is_relative_to(Path.cwd()) else COUNTS}")
        return 0
    lines, grown = compare(committed["operations"], found)
    print(*lines, sep="\n")
    if (here := environment()) != committed["environment"]:
        differ = [f"{key} {committed['environment'].get(key)}, here {value}" for key, value in here.items()]
        print("Not judged: the committed counts are of", "; ".join(differ))
        return 0
    return 1 if grown else 0


def environment() -> dict[str, str]:
    """What counts depend on."""
    compiler = subprocess.run([*os.environ.get("CC", "cc").split(), "-dumpfullversion"], capture_output=True, text=True)
    return {
        "machine": platform.machine(),
        "compiler": compiler.stdout.strip(),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def count(names: list[str]) -> dict[str, Any]:
    """operation -> {"instructions": for each time, "functions": {name: its own of these}}."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            *("valgrind", "--tool=callgrind", "--instr-atstart=no", "--compress-strings=no", "--compress-pos=no"),
            f"--callgrind-out-file={folder}/out",
            *(sys.executable, "-m", "bench.micro.operations", *names),
        ]
        # What an interpreter does to look its names up must be the same in each run.
        settings = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        try:
            done = subprocess.run(words, capture_output=True, text=True, env=settings)
        except FileNotFoundError:
            raise BenchError("valgrind not found: install it (Debian: apt-get install valgrind)") from None
        if done.returncode:
            raise BenchError(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
        dumps = dict(read(path) for path in Path(folder).iterdir() if "Client Request: " in path.read_text())
    missing = set(names or OPERATIONS) - set(dumps)
    if missing:
        raise BenchError(
            f"no counts of {sorted(missing)}: operations.c was built without valgrind/callgrind.h; install valgrind's "
            "headers and remove build/bench"
        )
    return dumps


def read(path: Path) -> tuple[str, dict[str, Any]]:
    """The operation of a dump, and its counts (https://valgrind.org/docs/manual/cl-format.html)."""
    own: Counter[str] = Counter()
    name, function, is_call = "", "", False
    for line in path.read_text().splitlines():
        if line.startswith("desc: Trigger: Client Request: "):
            name = line.removeprefix("desc: Trigger: Client Request: ")
        elif line.startswith("fn="):
            function = line.removeprefix("fn=")
        elif line.startswith("calls="):
            is_call = True  # the next line has what the callee cost
        elif line[:1].isdigit():
            if not is_call:
                own[function] += int(line.split()[-1])
            is_call = False
    costliest = {each: round(cost / COUNTED) for each, cost in own.most_common(FUNCTIONS)}
    return name, {"instructions": round(own.total() / COUNTED), "functions": costliest}


def compare(committed: dict[str, Any], found: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(lines of a table, names of the operations that take too many more instructions)."""
    lines, grown = [f"{'operation':<28}{'committed':>12}{'now':>12}{'ratio':>8}"], []
    for name, counts in found.items():
        now = counts["instructions"]
        if name not in committed:
            lines.append(f"{name:<28}{'new':>12}{now:>12,}")
            continue
        before = committed[name]["instructions"]
        lines.append(f"{name:<28}{before:>12,}{now:>12,}{now / before:>8.3f}")
        if now > before * GROWTH:
            grown.append(name)
            lines += [f"    {line}" for line in grown_functions(committed[name]["functions"], counts["functions"])]
    if grown:
        lines.append(f"More than {GROWTH - 1:.0%} more instructions: {', '.join(grown)}")
    return lines, grown


def grown_functions(before: dict[str, int], now: dict[str, int]) -> Iterator[str]:
    """Those that cost more, the most of all first. One that was not among the costliest counts as new."""
    for name in sorted(now, key=lambda name: before.get(name, 0) - now[name]):
        if now[name] > before.get(name, 0) + SLACK:
            yield f"{name}: {before.get(name, 0):,} -> {now[name]:,}"


if __name__ == "__main__":
    sys.exit(main())
