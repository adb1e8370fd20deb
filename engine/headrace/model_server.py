"""The commands `multi-model-server` (or `mxnet-model-server`) and `torchserve`: their flags, with Headrace behind them.

    COMMAND --start ...              starts the process below in the background and returns
    COMMAND --start --foreground     becomes it
    COMMAND --stop                   ends it, by its pid file

    python -m headrace.model_server MARKER ...    the server itself; MARKER is the argument by which containers find it

Where the real server's package is installed its own command runs: who installed it on purpose must not get another.
Exit status: 0, or 1 for whatever is wrong, as the originals have it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import NoReturn

import psutil

from headrace import __version__, log, server_file, startup_models, surroundings
from headrace.config import ModelSpec
from headrace.errors import ConfigError
from headrace.server_file import MMS, TORCHSERVE, Dialect, ServerFile
from headrace.settings import Settings, load

STOP_S = 40.0  # a server drains for 25 s, and its processes get a little more

_FAILED = 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(_FAILED, f"{self.prog}: {message}\n")


def multi_model_server() -> int:
    """Entry point of the console scripts multi-model-server and mxnet-model-server."""
    return _command(MMS, sys.argv[1:])


def torchserve() -> int:
    """Entry point of the console script torchserve."""
    return _command(TORCHSERVE, sys.argv[1:])


def _command(dialect: Dialect, words: Sequence[str]) -> int:
    original = _original(dialect)
    if original is not None:
        print(
            f"{dialect.commands[0]}: the package {dialect.distribution} is installed, so its own server is started; "
            f"to have Headrace: pip uninstall {dialect.distribution}; pip install --force-reinstall --no-deps headrace",
            file=sys.stderr,
        )
        return int(original.load()() or 0)
    try:
        return run(dialect, build_parser(dialect).parse_args(words), words)
    except ConfigError as error:
        return _complain(dialect, error)


def run(dialect: Dialect, arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Start or stop; words: the arguments as typed. Raises ConfigError for what makes a start impossible."""
    path = os.path.join(tempfile.gettempdir(), ".model_server.pid")
    running = _running(path)
    if arguments.stop:
        return _stop(dialect, path, running)
    if running is not None:
        print(f"{dialect.commands[0]}: already running, as process {running.pid}; end it with --stop", file=sys.stderr)
        return _FAILED
    read_settings(dialect, arguments)  # so that a mistake is told here and not in a log
    command = _server_command(dialect, words)
    if arguments.foreground:
        _write_pid(path, os.getpid())
        os.execv(command[0], command)
    server = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)
    _write_pid(path, server.pid)
    server.returncode = 0  # it is not ours to wait for
    return 0


def read_settings(
    dialect: Dialect, arguments: argparse.Namespace, environ: Mapping[str, str] = os.environ
) -> tuple[Settings, ServerFile]:
    """Models and settings of a start, and the file that they came from. Raises ConfigError with all problems."""
    environ = dict(environ)
    if dialect is TORCHSERVE and "SAGEMAKER_MODEL_SERVER_TIMEOUT" in environ:
        # Its toolkit hands the number on to a server that takes it for seconds; MMS takes it for minutes.
        minutes = environ.pop("SAGEMAKER_MODEL_SERVER_TIMEOUT")
        environ.setdefault("SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS", minutes)
    file = server_file.read(dialect, server_file.find(dialect, arguments.config, environ), environ)
    problems: list[str] = []
    if arguments.log_config is not None and not os.path.isfile(arguments.log_config):
        problems.append(f"--log-config {arguments.log_config}: no such file")
    models: tuple[ModelSpec, ...] = ()
    store = arguments.model_store or file.model_store
    try:
        entries = arguments.models or file.models
        if store is not None or entries or environ.get(startup_models.PRELOAD):
            choice = startup_models.choose((), store, entries, environ)
            models, store = tuple(map(file.complete, choice.models)), choice.store
    except ConfigError as error:
        problems.append(str(error))
    try:
        settings = load(
            {},
            environ,
            file={"failed_start": (dialect.commands[0], "stay"), **file.settings},  # as the original does
            models=models,
            model_store=store,
            allowed_urls=file.allowed_urls,
            keystore=(file.keystore, file.keystore_password),
        )
        surroundings.tls_context(settings.config)
    except ConfigError as error:
        problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return settings, file


def build_parser(dialect: Dialect) -> argparse.ArgumentParser:
    """The original's flags, and those of TorchServe that have no meaning here."""
    parser = _Parser(
        dialect.commands[0],
        description=f"Headrace with the command line of {dialect.distribution}.",
        epilog="All settings of `headrace serve` can be given as HEADRACE_* variables; they beat the file.",
        allow_abbrev=False,
    )
    parser.add_argument("-v", "--version", action="version", version=f"headrace {__version__}")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--start", action="store_true", help="start the server in the background (the default)")
    action.add_argument("--stop", action="store_true", help="end the server")
    parser.add_argument("--foreground", action="store_true", help="run the server in the foreground")
    parser.add_argument(
        dialect.flag, dest="config", metavar="FILE", help="configuration file in Java's properties form"
    )
    parser.add_argument("--model-store", metavar="DIR", help="directory that models are taken from")
    parser.add_argument(
        "--models", nargs="+", default=[], metavar="[NAME=]PATH", help="models to load at start-up, or ALL of the store"
    )
    parser.add_argument("--log-config", metavar="FILE", help="must exist; log4j's settings have no meaning here")
    if dialect is TORCHSERVE:
        for flags in (
            ("--ncs", "--no-config-snapshots"),
            ("--disable-token-auth", "--disable-token"),
            ("--enable-model-api",),
        ):
            parser.add_argument(*flags, action="store_true", help="accepted; has no meaning here")
        for flag in ("--workflow-store", "--plugins-path", "--cpp-log-config"):
            parser.add_argument(flag, metavar="PATH", help="accepted; has no meaning here")
    return parser


def _original(dialect: Dialect) -> importlib.metadata.EntryPoint | None:
    """The command of the real server's own package, where that is installed."""
    try:
        scripts = importlib.metadata.distribution(dialect.distribution).entry_points.select(group="console_scripts")
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((script for script in scripts if script.name in dialect.commands), None)


def _server_command(dialect: Dialect, words: Sequence[str]) -> list[str]:
    # The directory that we were started in is no place to import from, as in processes.spawn().
    safe_path = ["-P"] if sys.version_info >= (3, 11) else []
    return [sys.executable, *safe_path, "-m", "headrace.model_server", dialect.marker, *words]


def _running(path: str) -> psutil.Process | None:
    """The server that the pid file names, if it still runs; its number may be another process's by now."""
    try:
        with open(path) as file:
            process = psutil.Process(int(file.read(32)))
        markers = {MMS.marker, TORCHSERVE.marker}
        return process if markers & set(process.cmdline()) else None
    except (OSError, ValueError, psutil.Error):
        return None


def _write_pid(path: str, pid: int) -> None:
    """Raises ConfigError. The directory may be everybody's, so a link that lies there in wait is not followed."""
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w") as file:
            file.write(f"{pid}\n")
    except OSError as error:
        raise ConfigError(f"pid file {path}: {error.strerror}") from None


def _stop(dialect: Dialect, path: str, running: psutil.Process | None) -> int:
    if running is None:
        print(f"{dialect.commands[0]} is not currently running.")
    else:
        with contextlib.suppress(psutil.NoSuchProcess):
            running.terminate()
        if not _ends(running, STOP_S):
            with contextlib.suppress(psutil.NoSuchProcess):
                running.kill()  # its processes end with it
            _ends(running, STOP_S)
        print(f"{dialect.commands[0]} has stopped.")
    with contextlib.suppress(OSError):
        os.unlink(path)
    return 0


def _ends(process: psutil.Process, timeout_s: float) -> bool:
    """Wait for its end. A zombie has ended: in a container there may be nobody who reaps it."""
    end_s = time.monotonic() + timeout_s
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > end_s:
                return False
            time.sleep(0.02)
    return True


def _complain(dialect: Dialect, error: ConfigError) -> int:
    problems = (f"  {line}" for line in str(error).splitlines())
    print(f"{dialect.commands[0]}: cannot start:", *problems, sep="\n", file=sys.stderr)
    return _FAILED


def main(argv: Sequence[str]) -> int:
    """The server itself: argv is the marker, then the command's words."""
    marker, *words = argv
    dialect = next(dialect for dialect in (MMS, TORCHSERVE) if dialect.marker == marker)
    arguments = build_parser(dialect).parse_args(words)
    environ = dict(os.environ)
    try:
        settings, file = read_settings(dialect, arguments, environ)
    except ConfigError as error:
        return _complain(dialect, error)
    os.environ.pop(f"{dialect.prefix}KEYSTORE_PASS", None)  # before any process of models is started
    for name in [name for name in os.environ if file.hidden and re.fullmatch(file.hidden, name)]:
        del os.environ[name]
    log.configure(settings.config.log_level, settings.config.log_format, "supervisor")
    logger = log.get("supervisor")
    logger.info("settings", **settings.log_fields())
    for event, fields in file.notes:
        logger.warning(event, **fields)
    if arguments.log_config is not None:
        logger.info("log_config.without_meaning_here", path=arguments.log_config)

    from headrace.supervisor import run

    def again() -> Settings:
        return read_settings(dialect, arguments, environ)[0]

    return run(dataclasses.replace(settings, again=again), title=None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
