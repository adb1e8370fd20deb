"""Where the time of frontend and worker goes under load, and what a request costs in system calls, wake-ups and copies.

    python -m bench.profile [--scenario echo] [--connections 64] [--seconds 10]

Two runs of the same load. In the first py-spy samples both processes, C and Cython included, into flame graphs under
build/profile/; it slows them down, so in the second perf counts their system calls at the kernel's own trace points.
Doorbells and copies are the server's own counters.
"""

import argparse
import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from bench import environment, procfs, wrk
from bench.errors import BenchError
from bench.scenarios import Scenario, all_scenarios
from bench.servers import HERE, HOST, Running, Server
from bench.toolchain import BUILD

OUT = BUILD.parent / "profile"
ROLES = ("frontend", "worker")
RATE_HZ = 400
SETTLE_S = 1.0
MARGIN_S = 4
#: System calls that a request may make. To watch all of them takes perf seconds to begin.
WATCHED = (
    *("read", "readv", "recvfrom", "recvmsg", "write", "writev", "sendto", "sendmsg", "futex", "epoll_pwait"),
    *("epoll_ctl", "io_uring_enter", "sched_yield", "clock_nanosleep", "mmap", "munmap", "madvise", "fallocate"),
)
COUNTED = {
    "bodies copied by the frontend, bytes": "headrace_frontend_copied_bytes_total",
    "bytes copied by the worker": "headrace_worker_copied_bytes_total",
    "frontend asleep": "headrace_frontend_parks_total",
    "worker asleep": "headrace_worker_parks_total",
    "frontend woken by a system call": "headrace_worker_bells_total",
    "batches": "headrace_worker_batches_total",
}


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m bench.profile", description=__doc__.partition("\n")[0])
    parser.add_argument("--scenario", default="echo", choices=sorted(all_scenarios()))
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--output", type=Path, metavar="FILE", help="a JSON file that the costs are added to")
    parser.add_argument("--seconds", type=int, default=10, help="of each of the two runs")
    arguments = parser.parse_args(words)
    scenario = all_scenarios()[arguments.scenario]
    try:
        OUT.mkdir(parents=True, exist_ok=True)
        with _server().running() as running:
            running.check(scenario)
            pids = {role: _pid(running.pid, role) for role in ROLES}
            for path in _sample(running, scenario, pids, arguments):
                print(path)
            requests, costs = _count(running, scenario, pids, arguments)
            print(f"{scenario.name}, {arguments.connections} connections: {requests:,.0f} requests; for each of them")
            print(*(f"    {label:<40}{cost:>12,.3f}" for label, cost in costs.items()), sep="\n")
            if arguments.output:
                _keep(arguments.output, f"{scenario.name} {arguments.connections}", costs, words)
    except BenchError as error:
        print(f"bench.profile: {error}", file=sys.stderr)
        return 1
    return 0


def _server() -> Server:
    """One port for both, so that whoever has the one has the metrics too."""
    models = [f"{path.parent.name}={path.parent}" for path in sorted(HERE.glob("models/*/model.py"))]
    words = [sys.executable, "-m", "headrace", "serve", *models, "--workers", "1", "--frontends", "1"]
    return Server("profiled", lambda port, _: [*words, "--port", str(port), "--management-port", str(port)])


def _pid(root: int, role: str) -> int:
    found = [pid for pid in procfs.tree(root) if re.search(rf"\b{role}\b", procfs.title(pid))]
    if len(found) != 1:
        raise BenchError(f"{len(found)} processes are called {role}, not one")
    return found[0]


def _sample(running: Running, scenario: Scenario, pids: dict[str, int], arguments: argparse.Namespace) -> list[Path]:
    program = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if program is None:
        raise BenchError("py-spy is not here: pip install 'headrace[bench]'")
    paths = {role: OUT / f"{scenario.name}-{role}.svg" for role in ROLES}
    samplers = []
    with _load(running, scenario, arguments):
        for role, pid in pids.items():
            words = [program, "record", "--native", "--rate", str(RATE_HZ), "--duration", str(arguments.seconds)]
            words += ["--pid", str(pid), "--output", str(paths[role])]
            samplers.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
        for sampler in samplers:
            _, said = sampler.communicate()
            if sampler.returncode:
                raise BenchError(f"py-spy failed (it needs leave to trace: root, or CAP_SYS_PTRACE):\n{said[-2000:]}")
    return list(paths.values())


def _count(
    running: Running, scenario: Scenario, pids: dict[str, int], arguments: argparse.Namespace
) -> tuple[float, dict[str, float]]:
    """(requests that were watched, what each cost by its label)."""
    program = shutil.which("perf")
    if program is None:
        raise BenchError("perf is not here: install it (Debian: apt-get install linux-perf)")
    watchers = {}
    with _load(running, scenario, arguments):
        before, began = _counters(running), time.monotonic()
        for role, pid in pids.items():
            events = ",".join(f"syscalls:sys_enter_{name}" for name in WATCHED)
            words = [program, "stat", "-x", ",", "-e", events, "-p", str(pid)]
            words += ["--timeout", str(arguments.seconds * 1000)]
            watchers[role] = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        reports = {role: watcher.communicate()[1] for role, watcher in watchers.items()}
        after, share = _counters(running), arguments.seconds / (time.monotonic() - began)
    requests = after["requests"] - before["requests"]
    if not requests:
        raise BenchError("no request was answered while perf watched")
    costs: dict[str, float] = {}
    for role, report in reports.items():
        if not (calls := _calls(report)):
            raise BenchError(f"perf counted nothing; it needs tracefs, and root or CAP_PERFMON:\n{report[-500:]}")
        costs |= {f"{role}: {name}": count / (requests * share) for count, name in calls}
    return requests, costs | {label: (after[label] - before[label]) / requests for label in COUNTED}


def _keep(path: Path, name: str, costs: dict[str, float], words: list[str]) -> None:
    document = json.loads(path.read_text()) if path.exists() else {"runs": {}}
    document["environment"] = environment.describe(["python", "-m", "bench.profile", *words])
    document["runs"][name] = {label: round(cost, 3) for label, cost in costs.items()}
    path.write_text(json.dumps(document, indent=1) + "\n")


def _calls(report: str) -> list[tuple[int, str]]:
    """(calls, system call) of perf's CSV, the most frequent first; what is rarer than one in a thousand stays out."""
    rows = [line.split(",") for line in report.splitlines()]
    found = [(int(row[0]), row[2].removeprefix("syscalls:sys_enter_")) for row in rows if row[0].isdigit()]
    total = sum(count for count, _ in found)
    return sorted((each for each in found if each[0] * 1000 > total), reverse=True)


def _counters(running: Running) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{HOST}:{running.port}/metrics", timeout=30) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    values: dict[str, float] = {}
    for family in families:
        for sample in family.samples:
            values[sample.name] = values.get(sample.name, 0.0) + sample.value
    return {
        "requests": values["headrace_worker_requests_total"],
        **{key: values[name] for key, name in COUNTED.items()},
    }


@contextlib.contextmanager
def _load(running: Running, scenario: Scenario, arguments: argparse.Namespace) -> Iterator[None]:
    """wrk in a thread, a little longer than what is done meanwhile."""
    with tempfile.NamedTemporaryFile(suffix=".body") as body:
        body.write(scenario.body)
        body.flush()
        where = (running.url(scenario), Path(body.name), scenario.content_type, arguments.connections)
        load = threading.Thread(target=wrk.run, args=(*where, arguments.seconds + MARGIN_S))
        load.start()
        time.sleep(SETTLE_S)
        try:
            yield
        finally:
            load.join()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
