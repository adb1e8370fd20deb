"""`headrace settings [NAME=VALUE ...]`: what a running server is set to, and changes of that."""

from __future__ import annotations

import argparse
from typing import Any

from headrace.client import Client, UsageError
from headrace.client_commands import add_command, say, table

CHANGE_S = 900.0  # fewer workers: models are loaded elsewhere, and requests that run are waited for


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Enter the command and its flags."""
    parser = add_command(
        commands,
        "settings",
        _settings,
        "show or change the settings of a running server",
        "Without arguments every setting, and where its value came from; with arguments they are changed, all or none.",
    )
    parser.add_argument(
        "changes", nargs="*", metavar="NAME=VALUE", help="such as log_level=DEBUG, idle_timeout=2m or workers=4"
    )
    parser.add_argument("--changed", action="store_true", help="show only what is not at its default")


def _settings(client: Client, arguments: argparse.Namespace) -> None:
    changes = dict(map(_change, arguments.changes))
    if len(changes) < len(arguments.changes):
        raise UsageError("a setting is given twice")
    if changes:
        document = client.call("PUT", "settings", document=changes, timeout_s=CHANGE_S)
        say(arguments, document, _changed(document))
        return
    document = client.get("settings")
    shown = {name: it for name, it in document["settings"].items() if it["from"] != "default" or not arguments.changed}
    rows = [(name, it["value"], "yes" if it["changeable"] else "no", it["from"]) for name, it in shown.items()]
    text = table(("SETTING", "VALUE", "CHANGEABLE", "FROM"), rows) if rows else "all settings are at their defaults"
    say(arguments, {"settings": shown}, text)


def _change(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals or not name:
        raise UsageError(f"{word!r} must be NAME=VALUE, such as log_level=DEBUG")
    return name, value


def _changed(document: dict[str, Any]) -> str:
    rows = [(name, it["old"], it["new"]) for name, it in document["changed"].items()]
    text = table(("SETTING", "WAS", "IS"), rows) if rows else "nothing to change"
    late = document.get("workers_that_follow")
    return f"{text}\nworkers that compute now, and follow then: {', '.join(map(str, late))}" if late else text
