"""`headrace models|load|unload|describe|explain|drain`: the management API from a terminal, or from a script.

Each prints a table or a sentence for people, with --json the server's document for programs. Whatever a server or a
model supplies is made printable first: a name or a traceback cannot move the cursor.

Exit codes are client.Exit: 0 done, 1 refused by the server, 2 usage, 3 no server.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from headrace.client import Client, ClientError, Exit, UsageError, default_url, read_token
from headrace.units import about_size

LOAD_S = 900.0  # a server ends a load after 600 s; before that it may wait for room
UNLOAD_S = 300.0  # HEADRACE_UNLOAD_TIMEOUT and some more
POLL_S = 0.05
SLACK_S = 15.0  # beyond HEADRACE_DRAIN: last answers, processes' ends
_REASON_MOST = 100  # characters of a reason in a table

Run = Callable[[Client, argparse.Namespace], None]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Enter these commands and their flags."""
    register = functools.partial(add_command, commands)
    register("models", _models, "list the models of a running server", "What each model is at, and its memory.")
    load = register("load", _load, "load models into a running server", "Load models, one after the other.")
    load.add_argument(
        "models",
        nargs="+",
        metavar="[NAME=]URL",
        help="in the server's model store, or http(s); without a name its manifest's",
    )
    load.add_argument("--handler", metavar="MODULE[:FUNCTION]", help="else the manifest's or the server's default")
    load.add_argument("--replicas", type=_count, metavar="N", help="workers that are to have it")
    load.add_argument("--batch-size", type=_count, metavar="N", help="most requests of one call")
    load.add_argument("--max-batch-delay", type=_count, metavar="MS", help="longest wait for company, in milliseconds")
    unload = register("unload", _unload, "unload models from a running server", "Answer what waits, then forget.")
    unload.add_argument("models", nargs="+", metavar="NAME")
    describe = register("describe", _describe, "show a model and its workers", "A model and its workers.")
    describe.add_argument("model", metavar="NAME")
    explain = register(
        "explain",
        _explain,
        "say why a model is or is not loaded",
        "Why a model is or is not resident, what it costs, what would have to go for it, and its last errors.",
    )
    explain.add_argument("model", metavar="NAME")
    drain = register(
        "drain",
        _drain,
        "end a running server properly",
        "Have the server accept no more, answer what it has accepted (HEADRACE_DRAIN at most), and end. Waits for the "
        "end of a server on this machine; returns at once for one elsewhere.",
    )
    drain.add_argument("--no-wait", action="store_true", help="return as soon as the server has begun")


def connection_flags(parser: argparse.ArgumentParser) -> None:
    """--url, --token-file."""
    parser.add_argument(
        "--url", metavar="URL", help=f"of the management port [default: HEADRACE_URL, {default_url({})}]"
    )
    parser.add_argument("--token-file", metavar="FILE", help="file with the server's token [HEADRACE_TOKEN_FILE]")


def connect(arguments: argparse.Namespace) -> Client:
    """The client that the flags ask for. Raises UsageError."""
    token = read_token(arguments.token_file or os.environ.get("HEADRACE_TOKEN_FILE"))
    return Client(arguments.url or default_url(), token)


def attempt(work: Callable[[], None]) -> int:
    """Do it, and return the exit status; an error is one line on standard error."""
    try:
        work()
        sys.stdout.flush()
    except ClientError as error:
        print(f"headrace: {printable(str(error))}", file=sys.stderr)
        return error.exit
    except BrokenPipeError:  # `| head` has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - or the interpreter complains when it flushes at its end
        return Exit.OK
    except KeyboardInterrupt:
        return 130
    return Exit.OK


def printable(text: str) -> str:
    """*text* with all that is not printable escaped, but for line ends and tabs."""
    escape = str.maketrans({"\n": "\n", "\t": "    "})
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode("ascii")
        for char in text.translate(escape)
    )


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows of text under their titles, in columns two blanks apart; numbers to the right."""
    cells = [[printable(str(cell)).replace("\n", " ") for cell in row] for row in [titles, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rights = [all(row[at][:1].isdigit() or row[at] in ("", "-") for row in cells[1:]) for at in range(len(titles))]
    lines = (
        "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(*it, strict=True))
        for it in ((row, widths, rights) for row in cells)
    )
    return "\n".join(line.rstrip() for line in lines)


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, run: Run, help: str, description: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help, description=description, allow_abbrev=False)
    connection_flags(parser)
    parser.add_argument("--json", action="store_true", help="print the server's answer as JSON")
    parser.set_defaults(run=lambda arguments: attempt(lambda: run(connect(arguments), arguments)))
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 up")
    return int(text)


def say(arguments: argparse.Namespace, document: Any, text: str) -> None:
    print(json.dumps(document, indent=2) if arguments.json else text)


def _models(client: Client, arguments: argparse.Namespace) -> None:
    document = client.get("overview")
    rows = [
        (
            model["name"],
            model["status"],
            f"{len(model['workers'])}/{model['most']}",
            about_size(model["charge_bytes"]) if model["charge_bytes"] else "-",
            _duration(model["idle_s"]),
            _short(model["reason"]),
        )
        for model in document["models"]
    ]
    memory = document["memory"]
    note = f"{about_size(memory['used_bytes'])} used of {about_size(memory['limit_bytes'])}"
    if document["models_left_out"]:
        note += f"; {document['models_left_out']} more models, smaller than these, are not shown"
    titles = ("MODEL", "STATUS", "REPLICAS", "MEMORY", "IDLE", "REASON")
    say(arguments, document["models"], f"{table(titles, rows) if rows else 'no models'}\n{note}")


def _load(client: Client, arguments: argparse.Namespace) -> None:
    given = {
        "handler": arguments.handler,
        "initial_workers": arguments.replicas,
        "batch_size": arguments.batch_size,
        "max_batch_delay": arguments.max_batch_delay,
    }
    for word in arguments.models:
        name, url = _name_and_url(word)
        document = {"model_name": name, "url": url, **given}
        load = functools.partial(client.call, "POST", "models", document=_without_none(document), timeout_s=LOAD_S)
        begun_s = time.monotonic()
        answer = _with_progress(f"loading {name or url}", load)
        say(arguments, answer, f"{name or url}: loaded in {time.monotonic() - begun_s:.2f} s")


def _without_none(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value is not None}


def _name_and_url(word: str) -> tuple[str | None, str]:
    """The halves of NAME=URL; a `=` behind a `/`, `:` or `?` is the URL's own."""
    name, equals, url = word.partition("=")
    if not equals or any(char in name for char in "/:?"):
        return None, word
    if not name or not url:
        raise UsageError(f"{word!r} must be NAME=URL or URL")
    return name, url


def _unload(client: Client, arguments: argparse.Namespace) -> None:
    for name in arguments.models:
        unload = functools.partial(client.call, "DELETE", "models", name, timeout_s=UNLOAD_S)
        answer = _with_progress(f"unloading {name}", unload)
        say(arguments, answer, f"{name}: unloaded")


def _describe(client: Client, arguments: argparse.Namespace) -> None:
    document = client.get("models", arguments.model)
    facts = [(key, value) for key, value in document.items() if key != "workers"]
    rows = [
        (worker["id"], worker["status"], worker["startTime"], about_size(worker["memoryUsage"]))
        for worker in document["workers"]
    ]
    workers = table(("WORKER", "STATUS", "SINCE", "PROCESS"), rows) if rows else "no workers"
    say(arguments, document, f"{table(('FACT', 'VALUE'), facts)}\n\n{workers}")


def _explain(client: Client, arguments: argparse.Namespace) -> None:
    document = client.get("models", arguments.model, "explain")
    say(arguments, document, explanation(document))


def explanation(document: dict[str, Any]) -> str:
    """The document of /models/NAME/explain, for people."""
    parts = [f"{document['model']}: {document['status']}", *(f"  {line}" for line in document["because"])]
    replicas = [
        (it["worker"], it["status"], it["since"], about_size(it["charge_bytes"])) for it in document["replicas"]
    ]
    if replicas:
        parts += ["", table(("WORKER", "STATUS", "SINCE", "CHARGE"), replicas)]
    room = document["room"]
    if room is not None:
        parts += ["", f"to load it: {room['verdict']}"]
        going = [(it["model"], about_size(it["charge_bytes"]), _duration(it["idle_s"])) for it in room["evict"]]
        if going:
            parts += ["", table(("WOULD GO", "FREES", "IDLE"), going)]
    events = [(it["time"], it["event"], _short(it["reason"])) for it in document["history"]]
    if events:
        parts += ["", table(("TIME", "EVENT", "REASON"), events)]
    for error in document["errors"]:
        where = "" if error["worker"] is None else f" on worker {error['worker']}"
        times = f", {error['count']} times" if error["count"] > 1 else ""
        parts += ["", f"{error['time']} {error['event']}{where}{times}: {error['error']}"]
        parts += [f"    {line}" for line in error["traceback"].splitlines()]
    return printable("\n".join(parts))


def _drain(client: Client, arguments: argparse.Namespace) -> None:
    answer = client.call("POST", "drain")
    if not arguments.no_wait and (process := _same_machine(client, answer)) is not None:
        within_s = answer["within_ms"] / 1000 + SLACK_S
        _with_progress("draining", lambda: _wait_for_end(process, within_s))
        say(arguments, answer, "the server has ended")
        return
    say(arguments, answer, f"the server accepts no more and ends within {answer['within_ms'] / 1000:g} s")


def _same_machine(client: Client, answer: dict[str, Any]) -> Any:
    """The server's process, when it is one that we can see: of this machine and this process namespace."""
    import psutil

    if client.host not in ("127.0.0.1", "::1", "localhost"):
        return None
    try:
        process = psutil.Process(answer["pid"])
        return process if abs(process.create_time() - answer["started"]) < 0.1 else None
    except psutil.NoSuchProcess:
        return None


def _wait_for_end(process: Any, within_s: float) -> None:
    until_s = time.monotonic() + within_s
    while _lives(process):
        if time.monotonic() >= until_s:
            raise ClientError(f"process {process.pid} has not ended within {within_s:g} s; see its log")
        time.sleep(POLL_S)


def _lives(process: Any) -> bool:
    """A zombie does not: it is for its parent to wait for, which may take its time."""
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _with_progress(what: str, work: Callable[[], Any]) -> Any:
    """The result of work(); on a terminal a line on standard error counts the seconds meanwhile."""
    if not sys.stderr.isatty():
        return work()
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    begun_s = time.monotonic()
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
        sys.stderr.write(f"\r\x1b[K{printable(what)} ... {time.monotonic() - begun_s:.1f} s")
        sys.stderr.flush()
    sys.stderr.write("\r\x1b[K")
    sys.stderr.flush()
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _REASON_MOST else text[: _REASON_MOST - 3] + "..."


def _duration(seconds: float | None) -> str:
    """90.0 -> "1m30s"; None -> "-"."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
