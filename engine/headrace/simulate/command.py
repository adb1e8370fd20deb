"""The flags of `headrace simulate`, and its exit status. Nothing that needs aiohttp is imported before it is run."""

from __future__ import annotations

import argparse
import enum
import os
import re
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from headrace.client import UsageError
from headrace.simulate.rules import Rules
from headrace.units import parse_duration_ms, parse_size

if TYPE_CHECKING:
    from headrace.simulate.simulator import Plan

_NAME = re.compile(r"[a-zA-Z0-9](?:-*[a-zA-Z0-9]){0,62}")  # of endpoints and variants
_RULES = Rules()


class Exit(enum.IntEnum):
    """How the command ended."""

    OK = 0
    CANNOT_START = 1  # no free port, no container that comes into service
    USAGE = 2


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Enter the command and its flags."""
    parser = commands.add_parser(
        "simulate",
        help="rehearse a SageMaker endpoint",
        description="Play SageMaker in front of a container: take InvokeEndpoint requests (boto3 with "
        "endpoint_url), unpack model packages, load and unload models, ping, restart. The container is the COMMAND "
        "after `--`, run with SageMaker's environment, or runs at --url already.",
        usage="headrace simulate [--packages DIR | --package FILE] [OPTION ...] {--url URL | -- COMMAND ...}",
        epilog="In COMMAND {port} is the port that it must listen on and {base} the folder that stands for /opt/ml. "
        "Exit status: 0 after a signal, 1 when it could not start or the container never came into service, 2 for a "
        "mistake in the arguments.",
        allow_abbrev=False,
    )
    models = parser.add_mutually_exclusive_group()
    models.add_argument(
        "--packages", metavar="DIR", help="a multi-model endpoint; DIR is its S3 prefix of .tar.gz files"
    )
    models.add_argument(
        "--package", metavar="FILE", help="an endpoint for this one model; with neither, the container has it"
    )
    parser.add_argument("--endpoint", default="endpoint", metavar="NAME", help="its name [default: endpoint]")
    parser.add_argument("--variant", default="AllTraffic", metavar="NAME", help="[default: AllTraffic]")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen on [default: 127.0.0.1]")
    parser.add_argument("--port", type=_port, default=8090, metavar="N", help="to listen on; 0: any [default: 8090]")
    parser.add_argument(
        "--url", default="", metavar="URL", help="of a container that runs already; it is not restarted"
    )
    parser.add_argument(
        "--container-port", type=_port, default=0, metavar="N", help="of COMMAND [default: any free one]"
    )
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for COMMAND; again for more")
    parser.add_argument(
        "--disk", default="", metavar="DIR", help="storage volume; an empty folder [default: a new one]"
    )
    parser.add_argument("--disk-limit", type=_size, default=_RULES.disk_bytes, metavar="SIZE", help="[default: 10GiB]")
    parser.add_argument(
        "--container-path", default="", metavar="PATH", help="where the container sees --disk [default: the same path]"
    )
    parser.add_argument(
        "--memory",
        type=_size,
        default=0,
        metavar="SIZE",
        help="what MemoryUtilization is a part of [default: all there is]",
    )
    parser.add_argument(
        "--no-caching", action="store_true", help="ModelCacheSetting Disabled: unload after each answer"
    )
    for flag, default, what in (
        ("--invocation-timeout", _RULES.invocation_s, "from a request to its answer"),
        ("--load-timeout", _RULES.load_s, "of a download and load"),
        ("--start-timeout", _RULES.start_s, "until /ping is answered 200"),
        ("--stop-timeout", _RULES.stop_s, "from SIGTERM to SIGKILL"),
        ("--ping-interval", _RULES.ping_every_s, "between pings"),
        ("--ping-timeout", _RULES.ping_s, "of a ping"),
    ):
        parser.add_argument(
            flag, type=_seconds, default=default, metavar="TIME", help=f"{what} [default: {default:g}s]"
        )
    parser.add_argument(
        "--ping-failures",
        type=_count,
        default=_RULES.ping_failures,
        metavar="N",
        help="in a row, then a restart [default: 3]",
    )
    parser.add_argument(
        "--trace", default="", metavar="FILE", help="write there what became of each request, as JSON lines"
    )
    parser.add_argument("--log-format", choices=("text", "json"), default="text", help="[default: text]")
    parser.add_argument("command_words", nargs="*", metavar="COMMAND", help="the container's command, after `--`")
    parser.set_defaults(run=_run)


def make_plan(arguments: argparse.Namespace) -> Plan:
    """What the arguments ask for. Raises UsageError."""
    from headrace.simulate.simulator import Plan

    command = tuple(word for word in arguments.command_words if word != "--")
    if bool(command) == bool(arguments.url):
        raise UsageError("name the container: either a command after `--`, or --url of one that runs")
    if arguments.url:
        _check_url(arguments.url)
        if arguments.env or arguments.container_port:
            raise UsageError("--env and --container-port are for a command; the container at --url has its own")
    for flag, name in (("--endpoint", arguments.endpoint), ("--variant", arguments.variant)):
        if not _NAME.fullmatch(name):
            raise UsageError(f"{flag} {name!r} must be up to 63 letters, digits and single dashes between them")
    if arguments.packages and not os.path.isdir(arguments.packages):
        raise UsageError(f"--packages {arguments.packages} is no folder; name one with model packages (.tar.gz) in it")
    if arguments.package and not os.path.isfile(arguments.package):
        raise UsageError(f"--package {arguments.package} is no file; name a model package (.tar.gz)")
    return Plan(
        endpoint=arguments.endpoint,
        variant=arguments.variant,
        host=arguments.host,
        port=arguments.port,
        packages=arguments.packages or "",
        package=arguments.package or "",
        command=command,
        url=arguments.url,
        container_port=arguments.container_port,
        disk=arguments.disk,
        container_path=arguments.container_path.rstrip("/"),
        environment=_environment(arguments.env),
        rules=Rules(
            invocation_s=arguments.invocation_timeout,
            load_s=arguments.load_timeout,
            start_s=arguments.start_timeout,
            ping_every_s=arguments.ping_interval,
            ping_s=arguments.ping_timeout,
            ping_failures=arguments.ping_failures,
            stop_s=arguments.stop_timeout,
            disk_bytes=arguments.disk_limit,
            memory_bytes=arguments.memory,
            is_caching=not arguments.no_caching,
        ),
    )


def _run(arguments: argparse.Namespace) -> int:
    if find_spec("aiohttp") is None:
        return _fail("simulate needs aiohttp, which is not installed: pip install 'headrace[simulate]'", Exit.USAGE)
    import asyncio

    from headrace import log
    from headrace.simulate.simulator import CannotStart, run

    log.configure("INFO", arguments.log_format, "simulate")
    try:
        plan = make_plan(arguments)
        file = open(arguments.trace, "w", buffering=1) if arguments.trace else None  # noqa: SIM115 - closed below
    except OSError as error:
        return _fail(f"--trace {arguments.trace} cannot be written: {error.strerror}", Exit.USAGE)
    except UsageError as error:
        return _fail(str(error), Exit.USAGE)
    try:
        asyncio.run(run(plan, file))
    except CannotStart as error:
        return _fail(str(error), Exit.CANNOT_START)
    finally:
        if file is not None:
            file.close()
    return Exit.OK


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_good = parts.scheme == "http" and bool(parts.hostname) and not parts.query and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        raise UsageError(f"--url {url!r} must be that of a container, such as http://127.0.0.1:8080")


def _environment(words: list[str]) -> dict[str, str]:
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals or "\0" in word:
            raise UsageError(f"--env {word!r} must be NAME=VALUE")
        found[name] = value
    return found


def _seconds(text: str) -> float:
    try:
        value = parse_duration_ms(text, "s") / 1000
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} must be more than nothing")
    return value


def _size(text: str) -> int:
    try:
        value = parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} must be more than nothing")
    return value


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 up")
    return int(text)


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port from 0 to 65535")
    return int(text)


def _fail(text: str, status: Exit) -> Exit:
    print(f"headrace: {text}", file=sys.stderr)
    return status
