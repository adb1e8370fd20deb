"""`headrace top`: a running server as a live page in a terminal.

screen() lays a View out with Rich, _live() renews it and listens to the keyboard. Without a terminal, or with --count
or --json, frames are printed one after the other.

Names and reasons come from models' owners: all text passes client_commands.printable() and goes into rich.text.Text,
which knows no markup, so none of it can move the cursor.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from headrace.client import Client, ClientError, UsageError
from headrace.client_commands import attempt, connect, connection_flags, printable
from headrace.top import ORDERS, Row, View, look, or_zero
from headrace.units import about_size, parse_duration_ms

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_KEYS = {order[0]: order for order in ORDERS}
_HELP = "sort by r requests, l latency, e errors, u under way, m memory, n name; j k move; space pauses; q quits"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Enter the command and its flags."""
    parser = commands.add_parser(
        "top",
        help="watch a running server in the terminal",
        description="Models, workers, memory against the budget, rates and latencies of a running server, renewed all "
        f"the time. Keys: {_HELP}.",
        epilog="Rates and latencies are those since the frame before. Needs the package rich: "
        "pip install 'headrace[top]'.",
        allow_abbrev=False,
    )
    connection_flags(parser)
    parser.add_argument(
        "--interval", type=_interval, default=2.0, metavar="TIME", help="between frames, 200ms to 1h [default: 2s]"
    )
    parser.add_argument("--sort", choices=ORDERS, default="requests", help="models' order [default: requests]")
    parser.add_argument("--count", type=_frames, metavar="N", help="print N frames and end, rather than a live page")
    parser.add_argument("--json", action="store_true", help="print each frame as a line of JSON; without end")
    parser.set_defaults(run=lambda arguments: attempt(lambda: _top(arguments)))


def _interval(text: str) -> float:
    try:
        seconds = parse_duration_ms(text, "s") / 1000
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None
    if not 0.2 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} must be from 200ms to 1h")
    return seconds


def _frames(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= len(text) <= 9 and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1 up")
    return int(text)


def screen(view: View, height: int | None) -> RenderableType:
    """A frame for people, of *height* lines at most (None: all models)."""
    from rich.console import Group

    workers = _worker_table(view)
    rows = view.rows()
    shown = rows
    if height is not None:
        room = max(1, height - workers.row_count - 10)
        view.first = max(0, min(view.first, len(rows) - room))
        shown = rows[view.first : view.first + room]
    foot = f"{len(shown)} of {len(rows)} models" if len(shown) < len(rows) else f"{len(rows)} models"
    if view.overview["models_left_out"]:
        foot += f", and {view.overview['models_left_out']} smaller ones that the server leaves out"
    lines: list[RenderableType] = [
        *_head(view),
        _text(""),
        workers,
        _text(""),
        _model_table(view, shown),
        _text(foot, "dim"),
    ]
    return Group(*lines)


def _head(view: View) -> Iterator[Text]:
    server, memory, totals = view.overview["server"], view.overview["memory"], view.totals()
    up_s = server["time"] - server["started"]
    yield _text(f"headrace {server['version']} at {view.url}, pid {server['pid']}, up {_span(up_s)}", "bold")
    if view.trouble:
        yield _text(view.trouble, "bold red")
    parts = [
        f"{_number(totals['answers'])} answers/s",
        f"{_number(totals['answers_4xx'])} 4xx/s",
        f"{_number(totals['answers_5xx'])} 5xx/s",
        f"{_number(totals['overloaded'])} overloaded/s",
        f"{totals['unanswered']:.0f} under way",
        f"{totals['connections']:.0f} connections",
    ]
    is_bad = or_zero(totals["answers_5xx"]) > 0 or or_zero(totals["overloaded"]) > 0
    yield _text("   ".join(parts), "red" if is_bad else "")
    used, limit = memory["used_bytes"], memory["limit_bytes"]
    share = used / limit if limit else 0.0
    filled = min(30, round(30 * share))
    yield _text(
        f"memory [{'#' * filled}{'.' * (30 - filled)}] {share:.0%}   {about_size(used)} used of {about_size(limit)}: "
        f"{about_size(memory['charged_bytes'])} charged to models, {about_size(memory['reserved_bytes'])} set aside "
        f"for loads, {about_size(memory['measured_bytes'])} measured",
        "red" if share > 0.97 else "yellow" if share > 0.85 else "green",
    )


def _worker_table(view: View) -> Table:
    table = _table("WORKER", "PID", "CPUS", "MODELS", "MEMORY", "BUSY", "REQUESTS/S", "<STATE")
    for worker in view.workers():
        state = worker["state"] if worker["at"] is None else f"{worker['state']} {worker['at']}"
        if worker["owner"] is not None:
            state += f" (for {worker['owner']} alone)"
        table.add_row(
            str(worker["worker"]),
            str(worker["pid"]),
            ",".join(map(str, worker["cpus"] or ())) or "any",
            str(worker["models"]),
            about_size(worker["memory_bytes"]),
            "-" if math.isnan(worker["busy"]) else f"{worker['busy']:.0%}",
            _number(worker["requests"]),
            _text(state, "" if worker["is_up"] else "red"),
        )
    return table


def _model_table(view: View, rows: list[Row]) -> Table:
    titles = {
        "<MODEL": "name",
        "<STATUS": "",
        "REPLICAS": "",
        "MEMORY": "memory",
        "UNDER WAY": "under-way",
        "REQUESTS/S": "requests",
        "5XX/S": "errors",
        "QUEUE P99": "",
        "COMPUTE P50": "",
        "P50": "",
        "P99": "latency",
        "BATCH": "",
        "BYTES/S": "",
    }
    table = _table(*(f"{title} v" if sort == view.sort else title for title, sort in titles.items()))
    for row in rows:
        is_bad = or_zero(row.errors) > 0 or row.status in ("failed", "quarantined")
        table.add_row(
            _text(row.name, "red" if is_bad else ""),
            _text(row.status, "" if row.status in ("resident", "") else "yellow"),
            row.replicas,
            about_size(row.memory_bytes) if row.memory_bytes else "-",
            str(row.in_flight),
            _number(row.requests),
            _number(row.errors),
            *(_time(seconds) for seconds in (row.queue_p99, row.compute_p50, row.p50, row.p99)),
            _number(row.batch),
            "-" if math.isnan(row.bytes) else about_size(int(row.bytes)),
        )
    return table


def _table(*titles: str) -> Table:
    """Titles that begin with `<` are of columns of words; the first gives way when the terminal is narrow."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", expand=False)
    for title in titles:
        is_words = title.startswith("<")
        table.add_column(
            title.removeprefix("<"),
            justify="left" if is_words else "right",
            no_wrap=True,
            overflow="ellipsis" if is_words else "crop",
            min_width=8 if is_words else None,
        )
    return table


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(printable(text).replace("\n", " "), style=style, no_wrap=True, overflow="ellipsis")


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _span(seconds: float) -> str:
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}d {hours:02d}:{minutes:02d}:{rest:02d}" if days else f"{hours:02d}:{minutes:02d}:{rest:02d}"


def _top(arguments: argparse.Namespace) -> None:
    client = connect(arguments)
    if not arguments.json:
        try:
            import rich  # noqa: F401 - is it there?
        except ImportError:
            raise UsageError(
                "headrace top needs the package rich: pip install 'headrace[top]', or use --json"
            ) from None
    view = View(client.url, arguments.sort)
    view.take(look(client))
    if arguments.json or arguments.count is not None or not (sys.stdin.isatty() and sys.stdout.isatty()):
        _print(client, view, arguments)
    else:
        _live(client, view, arguments.interval)


def _print(client: Client, view: View, arguments: argparse.Namespace) -> None:
    """Frames one after the other. The first comes after an interval, for rates need two looks."""
    printed = 0
    while arguments.count is None or printed < arguments.count:
        time.sleep(arguments.interval)
        view.take(look(client))
        if arguments.json:
            print(json.dumps(view.document()), flush=True)
        else:
            from rich.console import Console

            console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False)
            console.print(screen(view, None))
        printed += 1


def _live(client: Client, view: View, interval_s: float) -> None:
    """The page, until `q`. A server that does not answer is told of, and asked again: it may be restarting."""
    from rich.console import Console, Group
    from rich.live import Live

    console = Console(highlight=False, markup=False)
    is_paused = False
    with _keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        due_s = time.monotonic() + min(interval_s, 0.5)
        while True:
            foot = _text("paused: space goes on" if is_paused else _HELP, "yellow" if is_paused else "dim")
            live.update(Group(screen(view, console.size.height), foot), refresh=True)
            for pressed in keys(max(0.0, due_s - time.monotonic()) if not is_paused else interval_s):
                if pressed == "q":
                    return
                if pressed == " ":
                    is_paused = not is_paused
                elif pressed in _KEYS:
                    view.sort = _KEYS[pressed]
                elif pressed in ("j", "k"):
                    view.first = max(0, view.first + (5 if pressed == "j" else -5))
            if not is_paused and time.monotonic() >= due_s:
                try:
                    view.take(look(client))
                except ClientError as error:
                    view.trouble = str(error)
                due_s = time.monotonic() + interval_s


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """A function that waits so many seconds for keys and gives them, "" for none. The terminal is set back after."""
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def keys(within_s: float) -> str:
        ready, _, _ = select.select([descriptor], [], [], within_s)
        if not ready:
            return ""
        typed = os.read(descriptor, 64)
        return typed.decode("ascii", "replace").lower() if typed else "q"  # end of input: the terminal is gone

    try:
        tty.setcbreak(descriptor)
        yield keys
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
