"""The `headrace` command. Nothing heavy is imported before it is known to be needed.

Exit codes of `serve` are errors.Exit: 0 all well, 1 the server could not boot, 2 usage or settings (nothing started).
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from headrace import __version__

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from headrace.settings import Settings
    from headrace.startup_models import Choice

_METAVARS = {
    "int": "N",
    "size": "SIZE",
    "budget": "SIZE|N%",
    "share": "off|on|N%",
    "seconds": "DURATION",
    "milliseconds": "DURATION",
    "microseconds": "DURATION",
    "modules": "MODULE,...",
    "pin": "auto|off|CPUS;...",
    "host": "ADDRESS",
    "bool": "true|false",
    "text": "TEXT",
    "field": "TEXT",
    "hosts": "HOST,...",
    "models": "NAME=PATH,...",
}
_EPILOG = """\
Sizes: 512, 512KiB or 512Ki, 2GiB, 64KB or 64k. Durations: 250ms, 10s, 2m; a bare number is in the unit that the setting
names.
Each flag has a variable of the same name, HEADRACE_MAX_REQUEST for --max-request; the flag wins.
Exit status: 0 after a proper end, 1 when the server could not start, 2 for a mistake in arguments or settings.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status. argv: the words after the program's name."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words in (["--version"], ["-V"]):
        print(f"headrace {__version__}")
        return 0
    try:
        arguments = _parse(words)
    except SystemExit as stop:  # argparse has said why
        return stop.code if isinstance(stop.code, int) else 2
    return int(arguments.run(arguments))


def _parse(words: list[str]) -> argparse.Namespace:
    """What the words ask for; the parser itself does not live as long as a server does. Raises SystemExit."""
    parser = build_parser(serves_only=words[:1] == ["serve"])
    arguments = parser.parse_args(words)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    return arguments


def build_parser(serves_only: bool = False) -> argparse.ArgumentParser:
    """The parser of all commands, or of the one that a server stays in, with one flag per setting.

    `run` of what it gives does the command.
    """
    import argparse

    parser = argparse.ArgumentParser(
        "headrace", description="Serves Python models over HTTP, from shared memory.", allow_abbrev=False
    )
    parser.add_argument("-V", "--version", action="version", version=f"headrace {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve models",
        description="Serve these model directories or archives. With none named: SageMaker's layout if it is there, "
        "else the bundled digits model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    serve.add_argument("-V", "--version", action="version", version=f"headrace {__version__}")
    serve.add_argument("named", nargs="*", metavar="NAME=PATH", help="a model directory or archive, and its name")
    serve.add_argument(
        "--settings",
        metavar="FILE",
        help="settings, one a line: max_batch_size = 64; flags and variables beat it; read again at SIGHUP",
    )
    serve.add_argument("--model-store", metavar="DIR", help="directory that --models and the API take models from")
    serve.add_argument(
        "--models",
        nargs="+",
        action="extend",
        default=[],
        metavar="ALL|NAME=FILE",
        help="models of the store to load at start-up; without it none",
    )
    _add_knobs(serve)
    serve.set_defaults(run=_serve)
    if not serves_only:
        from headrace import bench_command, client_commands, settings_command, top_command
        from headrace.simulate import command as simulate_command

        client_commands.add(commands)
        settings_command.add(commands)
        bench_command.add(commands)
        top_command.add(commands)
        simulate_command.add(commands)
    return parser


def _add_knobs(parser: argparse.ArgumentParser) -> None:
    """One flag per knob. Values stay text: settings.load() reads them as it reads the variables."""
    from headrace import config

    group = parser.add_argument_group("settings")
    for name, item in config.KNOBS.items():
        meta = item.metadata
        default = meta["shown"] or config.show(name, item.default)
        text = f"{meta['help']} [default: {default}]".replace("`", "").replace("%", "%%")
        metavar = "|".join(meta["choices"]) or _METAVARS[meta["kind"]]
        group.add_argument(config.flag(name), dest=name, metavar=metavar, help=text)


def _serve(arguments: argparse.Namespace) -> int:
    from headrace.errors import ConfigError, Exit

    try:
        from headrace import example, log, supervisor
    except ImportError as error:
        print(f"headrace: cannot start: {_explain_import(error)}", file=sys.stderr)
        return Exit.BOOT_FAILED
    try:
        settings = serve_settings(arguments)
    except ConfigError as error:
        problems = (f"  {line}" for line in str(error).splitlines())
        print("headrace: cannot start:", *problems, sep="\n", file=sys.stderr)
        return Exit.USAGE
    log.configure(settings.config.log_level, settings.config.log_format, "supervisor")
    log.get("supervisor").info("settings", **settings.log_fields())

    return supervisor.run(settings, on_ready=example.show)


def _explain_import(error: ImportError) -> str:
    """What a source tree that was not installed lacks, and what to do about it."""
    from importlib.util import find_spec

    if find_spec("headrace._memory") is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return (
            f"the extensions of {os.path.dirname(__file__)} are not built for CPython {version}: "
            "run `make run`, or `pip install .`, in the source tree"
        )
    return f"{error}: install headrace with what it depends on, by `pip install` of the wheel or of the source tree"


def serve_settings(arguments: argparse.Namespace) -> Settings:
    """Models and settings of a `serve` command. Raises ConfigError with the problems of both, one a line."""
    from headrace import startup_models
    from headrace.errors import ConfigError

    problems: list[str] = []
    choice = startup_models.Choice((), None, False, "")
    try:
        preload = {} if arguments.preload is None else {startup_models.PRELOAD: arguments.preload}
        environ = {**os.environ, **preload}
        choice = startup_models.choose(arguments.named, arguments.model_store, arguments.models, environ)
    except ConfigError as error:
        problems.append(str(error))
    try:
        settings = _read_settings(arguments, choice)
    except ConfigError as error:
        problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    if arguments.settings is None:
        return settings
    import dataclasses
    import functools

    return dataclasses.replace(settings, again=functools.partial(_read_settings, arguments, choice))


def _read_settings(arguments: argparse.Namespace, choice: Choice) -> Settings:
    from headrace import config, settings_file
    from headrace.settings import load

    return load(
        {name: text for name in config.KNOBS if (text := getattr(arguments, name)) is not None},
        os.environ,
        file=settings_file.read(arguments.settings) if arguments.settings is not None else None,
        models=choice.models,
        model_store=choice.store,
        sagemaker=choice.sagemaker,
        origin={"models": choice.origin, **({"sagemaker": choice.origin} if choice.sagemaker else {})},
    )
