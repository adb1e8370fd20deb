"""What is done to a started server at a point of a comparison, and what is counted: a Run.

Every run has the CPU time of the server's whole tree and that of the load generator, for each request: where both
share cores, what the one takes the other lacks. A request that was never answered counts in latencies as NEVER_US.
"""

import http.client
import math
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench import procfs, wrk
from bench.errors import BenchError
from bench.points import Point, parts
from bench.report import Run
from bench.scenarios import Mix, Scenario, check_constant
from bench.servers import POLL_S, Running, Server
from bench.work import DEADLY
from headrace import loadgen

WARM_UP_CONNECTIONS = 16
NEVER_US = 60e6
CHECK_EVERY = 200  # answers of a mix, one of which is looked at while the load goes on
PERCENTS = (1, 10, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.99, 100)
CRASH_S, CRASH_AT_S, CRASH_INTERVAL_S = 8, 1.0, 0.02


def measure(
    server: Server, points: Sequence[Point], seconds: int, warm_up_s: int, before: Sequence[Run]
) -> Iterator[Run]:
    """One fresh server at each of these points of one setup in turn. before: runs of it in this round, which an open
    loop may need. BenchError, after the runs that went well, when it does not come up, answers wrongly, or not at all.
    """
    runs = list(before)
    with server.running(may_die=points[0].what == "crash") as running:
        for index, point in enumerate(points):
            if not index or point.load is not points[index - 1].load:
                _make_ready(running, point, 1 if index else warm_up_s)
            run: Run = {"server": server.name, "scenario": point.name, "connections": point.number}
            if point.what in _SPECIAL:
                run |= _SPECIAL[point.what](running, point)
            elif point.percent:
                run |= _open_loop(running, point, seconds, _capacity(point, runs))
            else:
                run |= _closed_loop(running, point, seconds)
            if point.what not in _SPECIAL:
                _check(running, point.load)
            runs.append(run | {"pss_bytes": procfs.pss_bytes(running.pid), "start_ms": running.start_ms})
            yield runs[-1]


def _make_ready(running: Running, point: Point, warm_up_s: int) -> None:
    if point.what in ("cold", "memory"):
        return
    for part in parts(point.load):
        running.await_right(part)
    _check(running, point.load)
    _closed_loop(running, replace(point, number=min(WARM_UP_CONNECTIONS, point.number)), warm_up_s)


def _check(running: Running, load: Scenario | Mix) -> None:
    for part in parts(load):
        running.check(part)


def _capacity(point: Point, runs: Sequence[Run]) -> float:
    found = [run for run in runs if (run["scenario"], run["connections"]) == (point.what, point.number)]
    return float(found[-1]["requests_per_s"])


def _closed_loop(running: Running, point: Point, seconds: int) -> Run:
    if isinstance(point.load, Mix):
        return _generated(running, point.load, point.number, seconds, None)
    ask = running.server.ask(point.load)
    with tempfile.NamedTemporaryFile(prefix="headrace-bench-") as body, _cost(running) as cost:
        Path(body.name).write_bytes(ask.body)
        load = wrk.run(running.url(point.load), Path(body.name), ask.headers, point.number, seconds)
    if not load.requests:
        raise BenchError(f"{running.server.name}, {point}: no request of wrk's was answered: {load.errors}")
    return {
        "requests_per_s": load.requests * 1e6 / load.duration_us,
        "p50_us": load.p50_us,
        "p99_us": load.p99_us,
        "p999_us": load.p999_us,
        "errors": {name: count for name, count in load.errors.items() if count},
        **cost(load.requests),
    }


def _open_loop(running: Running, point: Point, seconds: int, capacity: float) -> Run:
    rate = capacity * point.percent / 100
    return _generated(running, point.load, point.number, seconds, rate) | {"planned_per_s": rate}


def _generated(running: Running, load: Scenario | Mix, connections: int, seconds: int, rate: float | None) -> Run:
    """By the generator of `headrace bench`."""
    with _cost(running) as cost:
        report = loadgen.run(_plan(running, load, connections, seconds, rate, NEVER_US / 1e6))
    if not report.good:
        raise BenchError(f"{running.server.name}, {load.name}: no request was answered: {dict(report.failed)}")
    return {
        "requests_per_s": report.rate,
        "p50_us": _us(report, 50),
        "p99_us": _us(report, 99),
        "p999_us": _us(report, 99.9),
        "errors": {name: count for name, count in report.failed.items() if count},
        "percentiles_us": {f"{percent:g}": _us(report, percent) for percent in PERCENTS},
        "generator_late_p99_us": round(loadgen.percentile_ms(report.lateness, 99) * 1e3, 1) if rate else 0.0,
        **cost(report.good),
    }


def _plan(
    running: Running, load: Scenario | Mix, connections: int, seconds: int, rate: float | None, timeout_s: float
) -> loadgen.Plan:
    weighted = load.parts if isinstance(load, Mix) else ((load, 1.0),)
    asks = [(running.server.ask(part), weight) for part, weight in weighted]

    def is_right(index: int, status: int, body: bytes) -> bool:
        part, _ = weighted[index]
        try:
            check_constant(body) if running.server.is_yardstick else part.check(running.server.read(part, body))
        except (ValueError, LookupError, TypeError):
            return False
        return status == 200

    return loadgen.Plan(
        f"http://127.0.0.1:{running.port}",
        [loadgen.Request(ask.target, ask.body, headers=ask.headers, weight=weight) for ask, weight in asks],
        connections=connections,
        rate=rate,
        duration_s=seconds,
        timeout_s=timeout_s,
        check=is_right,
        check_every=CHECK_EVERY,
    )


def _us(report: loadgen.Report, percent: float) -> float:
    found = report.percentile_ms(percent) * 1e3
    return round(found, 1) if math.isfinite(found) else NEVER_US


@contextmanager
def _cost(running: Running) -> Iterator[Callable[[int], Run]]:
    """Gives, once it is left, from a number of requests what each cost the server and the generator."""
    found: dict[str, float] = {}
    server, generator = _server_us(running), _generator_us()
    yield lambda requests: {name: cost / requests for name, cost in found.items()}
    found["cpu_us_per_request"] = _server_us(running) - server
    found["generator_us_per_request"] = _generator_us() - generator


def _server_us(running: Running) -> float:
    return sum(stat.cpu_us for stat in procfs.tree(running.pid).values())


def _generator_us() -> float:
    """Of this process, whose thread the own generator is, and of those that it has waited for, as for wrk."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used) * 1e6


def _crash(running: Running, point: Point) -> Run:
    """Echoes for CRASH_S, and one request at CRASH_AT_S that kills the process which reads it."""
    deadly = running.server.ask(replace(parts(point.load)[0], body=DEADLY))

    def kill() -> None:
        connection = running.connect()
        connection.timeout = CRASH_S
        try:
            connection.request("POST", deadly.target, deadly.body, dict(deadly.headers))
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            pass  # as it may
        finally:
            connection.close()

    plan = _plan(running, point.load, point.number, CRASH_S, None, CRASH_S)
    killer = threading.Timer(CRASH_AT_S, kill)
    killer.start()
    try:
        report = loadgen.run(plan, interval_s=CRASH_INTERVAL_S)
    finally:
        killer.join()
    answered = [interval.at_s for interval in report.timeline if interval.good]
    silence = max(later - sooner for sooner, later in zip(answered, [*answered[1:], CRASH_S], strict=True))
    return {
        "requests_per_s": report.rate,
        "failed": report.failures,
        "failed_as": {name: count for name, count in report.failed.items() if count},
        "silence_ms": round(silence * 1e3),
        "is_back": answered[-1] > CRASH_S - 1,
        "errors": {},  # they are what is measured
    }


def _cold(running: Running, point: Point) -> Run:
    """From the request that loads a model to its first right answer. The first brings what all need: it is left out."""
    took_ms = []
    for index in range(point.number + 1):
        scenario = replace(parts(point.load)[0], model=f"mlp-{index}")
        began = time.monotonic()
        running.load(scenario.model)
        running.await_right(scenario, POLL_S)
        took_ms.append((time.monotonic() - began) * 1e3)
    return {"load_ms": statistics.median(took_ms[1:]), "load_max_ms": max(took_ms[1:]), "errors": {}}


def _memory(running: Running, point: Point) -> Run:
    """All models are asked once, so that what they need is there."""
    for index in range(point.number):
        running.await_right(replace(parts(point.load)[0], model=f"mlp-{index}"))
    return {"errors": {}}


_SPECIAL: dict[str, Callable[[Running, Point], Run]] = {"crash": _crash, "cold": _cold, "memory": _memory}
