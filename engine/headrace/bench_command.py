"""`headrace bench URL`: load on a server, a report for people or programs, objectives that decide the exit status.

What is sent and how it is measured is loadgen's business; here words become a Plan, and a Report becomes text.
"""

from __future__ import annotations

import argparse
import enum
import io
import json
import math
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from headrace.client import UsageError, read_token
from headrace.units import parse_duration_ms

if TYPE_CHECKING:
    from headrace.loadgen import Interval, Plan, Report

GENERATED_MAX = 16 << 20  # values of a generated body
MODELS_SHOWN = 10
MODELS_MOST = 100_000
_CONTENT_TYPES = {
    ".json": "application/json",
    ".npy": "application/x-npy",
    ".npz": "application/x-npz",
    ".csv": "text/csv",
}
_GENERATED = re.compile(r"(json|npy):([1-9][0-9]{0,8}(?:x[1-9][0-9]{0,8}){0,31})")
_PERCENTILE = re.compile(r"p([0-9]{1,2}(?:\.[0-9]{1,4})?|100)")


class Exit(enum.IntEnum):
    """How the command ended."""

    OK = 0
    NOT_MEASURED = 1  # no connection, or not a single good answer
    USAGE = 2
    MISSED = 3  # an objective
    INTERRUPTED = 130


@dataclass(frozen=True)
class Objective:
    """`p99=20ms`, `errors=0`, `errors=0.1%` (both at most) or `rate=1000` (at least), as of --slo.

    name: what is before the equals sign, `errors%` for a share. limit: milliseconds, requests, percent, requests/s.
    """

    text: str
    name: str
    limit: float

    def measured(self, report: Report) -> float:
        """What became of it, in the unit of the limit; nan when there is nothing to tell from."""
        if self.name == "rate":
            return report.rate
        if self.name == "errors":
            return report.failures
        if self.name == "errors%":
            return 100 * report.failures / report.planned if report.planned else math.nan
        return report.percentile_ms(float(self.name[1:]))

    def is_met(self, report: Report) -> bool:
        value = self.measured(report)
        return value >= self.limit if self.name == "rate" else value <= self.limit  # nan is neither

    def show(self, report: Report) -> str:
        unit = {"rate": " requests/s", "errors": "", "errors%": "%"}.get(self.name, " ms")
        return f"{self.text} {'met' if self.is_met(report) else 'missed'}: {self.measured(report):,.6g}{unit}"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Enter the command and its flags."""
    parser = commands.add_parser(
        "bench",
        help="measure a server under load",
        description="Send requests to URL and report rates, latencies and failures. With --rate they are planned ahead "
        "(open loop) and a latency counts from the plan; without, each connection sends when its answer has come.",
        epilog="Exit status: 0 done, 1 no connection or no good answer, 2 a mistake in the arguments, "
        "3 an objective was missed, 130 interrupted.",
        allow_abbrev=False,
    )
    parser.add_argument("url", metavar="URL", help="where to POST; {model} in its path stands for a --model")
    parser.add_argument("--rate", type=_number, metavar="N", help="requests a second; without it, closed loop")
    parser.add_argument("--arrivals", choices=("constant", "poisson"), help="of --rate [default: constant]")
    parser.add_argument("--connections", type=_count, default=16, metavar="N", help="open at a time [default: 16]")
    parser.add_argument("--duration", type=_seconds, default=10.0, metavar="TIME", help="measured [default: 10s]")
    parser.add_argument("--warmup", type=_seconds, default=1.0, metavar="TIME", help="before that [default: 1s]")
    parser.add_argument("--timeout", type=_seconds, default=60.0, metavar="TIME", help="of a request [default: 60s]")
    body = parser.add_mutually_exclusive_group(required=True)
    body.add_argument("--body", metavar="FILE", help="what to send")
    body.add_argument(
        "--generate", type=_generated, metavar="KIND:SHAPE", help="send random numbers: json:1x256, npy:1x3x224x224"
    )
    parser.add_argument("--content-type", metavar="TYPE", help="of the body [default: by the file's suffix, or KIND]")
    parser.add_argument("--token-file", metavar="FILE", help="file with the server's token")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        dest="names",
        metavar="NAME",
        help="give it again for more; the k-th gets 1/k of the requests of the first (Zipf)",
    )
    parser.add_argument("--models", metavar="FILE", help="the same, from a file with one name a line")
    parser.add_argument("--zipf", type=_number, metavar="S", help="1/k**S instead: 0 gives all models the same share")
    parser.add_argument(
        "--header",
        action="append",
        type=_header,
        default=[],
        dest="headers",
        metavar="NAME:VALUE",
        help="send this one too; {model} in its value stands for a --model; give it again for more",
    )
    parser.add_argument("--seed", type=_count, default=1, metavar="N", help="of all that is drawn [default: 1]")
    parser.add_argument("--json", metavar="FILE", help="write the whole report there")
    parser.add_argument("--report", metavar="FILE", help="draw it there: .html or .png (pip install 'headrace[bench]')")
    parser.add_argument(
        "--slo",
        action="append",
        type=objective,
        default=[],
        metavar="OBJECTIVE",
        help="p99=20ms, errors=0, errors=0.1%% (at most), rate=1000 (at least); give it again for more",
    )
    parser.set_defaults(run=_run)


def objective(text: str) -> Objective:
    """The objective in *text*. Raises argparse.ArgumentTypeError with the forms that there are."""
    name, _, limit = text.partition("=")
    try:
        if _PERCENTILE.fullmatch(name):
            return Objective(text, name, parse_duration_ms(limit, "ms"))
        if name == "errors" and limit.endswith("%"):
            return Objective(text, "errors%", _number(limit[:-1]))
        if name in ("errors", "rate"):
            return Objective(text, name, _number(limit))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    raise argparse.ArgumentTypeError(f"{text!r} must be such as p99=20ms, errors=0, errors=0.1% or rate=1000")


def make_plan(arguments: argparse.Namespace) -> Plan:
    """What the arguments ask for. Raises UsageError; numbers out of range are left to loadgen.run()."""
    from headrace.loadgen import Plan, Request, zipf

    if arguments.arrivals and arguments.rate is None:
        raise UsageError("--arrivals is how requests of a --rate are planned; give --rate too")
    body, content_type = _body(arguments)
    headers = {"Content-Type": content_type}
    for name, value in arguments.headers:
        if name.lower() == "content-type":
            raise UsageError("--header Content-Type: give it as --content-type")
        if any(name.lower() == other.lower() for other in headers):
            raise UsageError(f"--header {name} is given twice")
        headers[name] = value
    if token := read_token(arguments.token_file):
        headers["Authorization"] = f"Bearer {token}"
    targets = _targets(arguments.url, _names(arguments), list(headers.values()))
    weights = zipf(len(targets), 1.0 if arguments.zipf is None else arguments.zipf)
    return Plan(
        arguments.url,
        [
            Request(
                target,
                body,
                headers={key: value.replace("{model}", name) if name else value for key, value in headers.items()},
                weight=weight,
                name=name,
            )
            for (name, target), weight in zip(targets, weights, strict=True)
        ],
        connections=arguments.connections,
        rate=arguments.rate,
        arrivals=arguments.arrivals or "constant",
        duration_s=arguments.duration,
        warm_up_s=arguments.warmup,
        timeout_s=arguments.timeout,
        seed=arguments.seed,
    )


def show(report: Report) -> str:
    """The report for people."""
    from headrace.loadgen import FAILURES, percentile_ms

    plan = report.plan
    loop = "closed loop" if plan.rate is None else f"open loop, {plan.rate:,g} requests/s ({plan.arrivals})"
    size = len(plan.requests[0].body)
    lines = [
        f"{plan.url}: {loop}, {plan.connections} connections, {report.seconds:.4g} s, bodies of {size:,} bytes",
        f"requests   {report.planned:,} due, {report.good:,} good, {report.failures:,} failed",
        f"rate       {report.rate:,.1f} good answers/s",
        "latency    " + "  ".join(f"{name} {report.percentile_ms(percent):.3f} ms" for name, percent in _SHOWN.items()),
    ]
    if plan.rate is not None:
        late = percentile_ms(report.lateness, 99)
        lines.append(f"generator  sent {late:.3f} ms late at p99; where this is not small, it is what was measured")
    if len(report.statuses) > 1 or 200 not in report.statuses:
        statuses = ", ".join(f"{status}: {count:,}" for status, count in sorted(report.statuses.items()))
        lines.append(f"statuses   {statuses or 'none'}")
    lines += [f"{word:<10} {count:,} {FAILURES[word]}" for word, count in report.failed.items() if count]
    if report.warm_up_failed:
        lines.append(f"warm-up    {report.warm_up_failed:,} failed, which counts nowhere else")
    if report.connect_errors:
        lines.append(f"connecting {report.connect_errors:,} times in vain: {report.connect_error}")
    if len(plan.requests) > 1:
        pairs = list(zip(plan.requests, report.by_request, strict=True))
        lines += [f"model      {it.name}: {sent:,} sent, {good:,} good" for it, (sent, good) in pairs[:MODELS_SHOWN]]
        if len(pairs) > MODELS_SHOWN:
            lines.append(f"           and {len(pairs) - MODELS_SHOWN:,} more models, with fewer requests")
    return "\n".join(lines)


_SHOWN = {"p50": 50, "p90": 90, "p99": 99, "p99.9": 99.9, "max": 100}


def _run(arguments: argparse.Namespace) -> int:
    from headrace import bench_report, loadgen

    try:
        plan = make_plan(arguments)
        if arguments.json:  # before the run, whose results would be lost; what is in the file stays for now
            _write(arguments.json, "ab", b"")
        if arguments.report:
            bench_report.check(arguments.report)
            _write(arguments.report, "ab", b"")
        report = loadgen.run(plan, _Progress(plan) if sys.stderr.isatty() else None)
        print(show(report), *(f"objective  {it.show(report)}" for it in arguments.slo), sep="\n", flush=True)
        if arguments.json:
            text = json.dumps(_document(report, arguments.slo), indent=2) + "\n"
            _write(arguments.json, "wb", text.encode())
        if arguments.report:
            judged = [(it.show(report), it.is_met(report)) for it in arguments.slo]
            _write(arguments.report, "wb", bench_report.render(arguments.report, report, show(report), judged))
    except UsageError as error:
        return _fail(str(error), Exit.USAGE)
    except loadgen.NoConnection as error:
        return _fail(str(error), Exit.NOT_MEASURED)
    except loadgen.LoadError as error:
        return _fail(str(error), Exit.USAGE)
    except BrokenPipeError:  # `| head` has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - or the interpreter complains when it flushes at its end
        return Exit.OK
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    if report.is_interrupted:
        return _fail("interrupted; the report is of what there was by then", Exit.INTERRUPTED)
    if missed := [it for it in arguments.slo if not it.is_met(report)]:
        return _fail("; ".join(it.show(report) for it in missed), Exit.MISSED)
    if not report.good:
        return _fail("not a single answer was good", Exit.NOT_MEASURED)
    return Exit.OK


def _document(report: Report, objectives: list[Objective]) -> dict[str, Any]:
    judged = []
    for it in objectives:
        value = it.measured(report)
        met = it.is_met(report)
        judged.append({"objective": it.text, "met": met, "measured": value if math.isfinite(value) else None})
    return {**report.to_json(), "objectives": judged}


class _Progress:
    """A line on standard error, written anew each second."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __call__(self, interval: Interval) -> None:
        whole_s = self._plan.warm_up_s + self._plan.duration_s
        phase = "warm-up, " if interval.at_s <= self._plan.warm_up_s else ""
        rate = interval.good / interval.seconds if interval.seconds > 0 else 0.0
        line = f"{phase}{interval.at_s:.0f} of {whole_s:g} s: {rate:,.0f} good answers/s"
        if interval.good:
            line += f", p50 {interval.p50_ms:.3f} ms, p99 {interval.p99_ms:.3f} ms"
        if interval.failed:
            line += f", {interval.failed:,} failed"
        is_over = interval.at_s >= whole_s
        sys.stderr.write(f"\r\x1b[K{'' if is_over else line}")
        sys.stderr.flush()


def _names(arguments: argparse.Namespace) -> list[str]:
    """Of the models, the most wanted first."""
    names: list[str] = list(arguments.names)
    if arguments.models:
        try:
            with open(arguments.models, encoding="utf-8") as file:
                names += [line.strip() for line in file if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--models {arguments.models} cannot be read: {error}") from None
    if arguments.zipf is not None and len(names) < 2:
        raise UsageError("--zipf is about the shares of models; name two at least with --model or --models")
    if len(names) > MODELS_MOST:
        raise UsageError(f"{len(names):,} models are named, at most {MODELS_MOST:,} may be")
    return names


def _targets(url: str, models: list[str], values: list[str]) -> list[tuple[str, str]]:
    """[(name, path and query)], one for each model, or a single one. values: of headers, which may hold {model} too."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"{url!r} is no URL: {error}") from None
    if "@" in parts.netloc:
        raise UsageError("a user in the URL is not sent; give a token with --token-file")
    template = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    has_place = any("{model}" in text for text in (template, *values))
    if not models:
        if has_place:
            raise UsageError("{model} stands in the URL or in a header; say which with --model NAME or --models FILE")
        return [("", template)]
    if not has_place:
        raise UsageError(
            f"--model has no place in {url}, nor in a --header; write {{model}} there, as in "
            "http://127.0.0.1:8080/models/{model}/invoke"
        )
    if twice := [name for name, count in Counter(models).items() if count > 1]:
        raise UsageError(f"--model {min(twice)} is given twice")
    return [(name, template.replace("{model}", quote(name, safe=""))) for name in models]


def _body(arguments: argparse.Namespace) -> tuple[bytes, str]:
    """The body and its content type."""
    if arguments.generate:
        kind, shape = arguments.generate
        return generate(kind, shape, arguments.seed), arguments.content_type or _CONTENT_TYPES[f".{kind}"]
    path = arguments.body
    content_type = arguments.content_type or _CONTENT_TYPES.get(os.path.splitext(path)[1].lower())
    if not content_type:
        raise UsageError(f"--body {path}: its name does not tell what it is; say so with --content-type")
    try:
        with open(path, "rb") as file:
            return file.read(), content_type
    except OSError as error:
        raise UsageError(f"--body {path} cannot be read: {error.strerror}") from None


def generate(kind: str, shape: tuple[int, ...], seed: int) -> bytes:
    """Random float32 from 0 to 1 of this shape: `npy`, or `json` as {"instances": ...} with four digits. The same seed
    gives the same."""
    import numpy as np

    values = np.random.default_rng(seed).random(shape, dtype=np.float32)
    if kind == "json":
        return json.dumps({"instances": values.astype(np.float64).round(4).tolist()}, separators=(",", ":")).encode()
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def _generated(text: str) -> tuple[str, tuple[int, ...]]:
    found = _GENERATED.fullmatch(text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} must be json:SHAPE or npy:SHAPE, such as json:1x256")
    shape = tuple(map(int, found[2].split("x")))
    if math.prod(shape) > GENERATED_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is {math.prod(shape):,} numbers, at most {GENERATED_MAX:,} may be")
    return found[1], shape


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} must be such as 'X-Amzn-SageMaker-Target-Model: {{model}}.tar.gz'")
    return name.strip(), value.strip()


def _seconds(text: str) -> float:
    try:
        return parse_duration_ms(text, "s") / 1000
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None


def _number(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,12}(?:\.[0-9]{1,9})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 up, such as 500 or 0.5")
    return float(text)


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 up")
    return int(text)


def _write(path: str, mode: str, content: bytes) -> None:
    try:
        with open(path, mode) as file:
            file.write(content)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def _fail(text: str, status: Exit) -> Exit:
    print(f"headrace: {text}", file=sys.stderr)
    return status
