"""The command of a bench that judges a promise: measure, judge, leave the result as JSON, print its table."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.errors import BenchError

Result = dict[str, Any]


def add_flags(parser: argparse.ArgumentParser, result: Path) -> None:
    """--output, *result* by default, and --show."""
    parser.add_argument("--output", type=Path, default=result, help="[default: %(default)s]")
    parser.add_argument("--show", action="store_true", help="print the table of what lies there, and measure nothing")


def keep(
    arguments: argparse.Namespace,
    measure: Callable[[], Result],
    judge: Callable[[list[Result]], list[str]],
    render: Callable[[Result], str],
) -> int:
    """Do what the flags ask for. The exit status: 1 where nothing could be measured, or a promise is broken."""
    if arguments.show:
        print(render(json.loads(arguments.output.read_text())))
        return 0
    try:
        result = measure()
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    result["problems"] = judge(result["runs"])
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(render(result))
    for problem in result["problems"]:
        print(f"bench: {problem}", file=sys.stderr)
    return 1 if result["problems"] else 0
