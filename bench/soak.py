"""Soak: mixed traffic for minutes to hours while workers are killed and models come and go. `python -m bench.soak`.

Every answer is verified. At the end there is a verdict, a JSON result and, where matplotlib is installed (the extra
`bench`), the curves of memory, descriptors and slots as a PNG. Exit status 0: nothing wrong, nothing lost, nothing
refused, and the curves are flat. One that is interrupted has no verdict, and ends its server.
"""

import argparse
import http.client
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bench import environment, procfs
from bench.errors import BenchError
from bench.traffic import SHAPES, Tally, client

HERE = Path(__file__).parent
RESULT = HERE / "results" / "soak.json"
PICTURE = HERE.parent / "docs" / "soak.png"
READY_S = 60.0
SAMPLE_S = 1.0
ECHO = """
from headrace import Model
class Echo(Model):
    def handle(self, requests):
        return [request.body for request in requests]
"""
# Flat: the median of the last quarter is within this of the second quarter's (the first is warm-up).
GROWTH = {"memory_bytes": (1.10, 16 << 20), "descriptors": (1.0, 12), "slots": (1.0, 32)}


class Soak:
    """A server under load. Figures are taken once a second."""

    def __init__(self, arguments: argparse.Namespace, directory: Path) -> None:
        self.arguments = arguments
        self.directory = directory
        self.tally = Tally()
        self.is_over = threading.Event()
        self.samples: list[dict[str, float]] = []
        self.recoveries_ms: list[float] = []
        self.log = directory / "log"
        self.process = self._start()
        try:
            self.port, self.management = self._wait()
        except BaseException:
            self.stop()
            raise

    def run(self) -> None:
        """The whole of it, and the server's end."""
        arguments = self.arguments
        works = [self._kill, self._load_and_unload]
        threads = [threading.Thread(target=work, daemon=True) for work in works]
        for number in range(arguments.clients):
            model = ("echo", "other")[number % 2]
            words = (self.port, model, number, arguments.seed, self.tally, self.is_over)
            threads.append(threading.Thread(target=client, args=words, daemon=True))
        for thread in threads:
            thread.start()
        began = time.monotonic()
        while (second := time.monotonic() - began) < arguments.seconds and self.process.poll() is None:
            self.samples.append({"second": second, **self._sample()})
            time.sleep(SAMPLE_S)
        self.is_over.set()
        for thread in threads:
            thread.join(90)
        self.tally.counts["stuck clients"] = sum(thread.is_alive() for thread in threads)
        self.samples.append({"second": time.monotonic() - began, **self._sample_at_rest()})

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return -1

    def _start(self) -> "subprocess.Popen[bytes]":
        for name in ("echo", "other", "passing"):
            (self.directory / name).mkdir()
            (self.directory / name / "model.py").write_text(ECHO)
        variables = {
            "HEADRACE_PORT": "0",
            "HEADRACE_MANAGEMENT_PORT": "0",
            "HEADRACE_WORKERS": str(self.arguments.workers),
            "HEADRACE_RETRIES": "10",  # the kills come from outside and strike the same request now and then
        }
        words = [f"{name}={self.directory / name}" for name in ("echo", "other")]
        command = [sys.executable, "-m", "headrace", "serve", *words, "--model-store", str(self.directory)]
        with self.log.open("wb") as log:
            return subprocess.Popen(
                command, env={**os.environ, **variables}, stdout=log, stderr=log, start_new_session=True
            )

    def _wait(self) -> tuple[int, int]:
        until = time.monotonic() + READY_S
        while " ready " not in (text := self.log.read_text()):
            if self.process.poll() is not None or time.monotonic() > until:
                raise BenchError(f"the server did not come up:\n{text}")
            time.sleep(0.02)
        ports = dict(re.findall(r" (inference|management)=http://\S*?:(\d+)", text))
        return int(ports["inference"]), int(ports["management"])

    def _kill(self) -> None:
        """SIGKILL for a worker, every so often; notes how long it is until all are there again."""
        dice = random.Random(self.arguments.seed)
        while self.arguments.kill_every and not self.is_over.wait(self.arguments.kill_every):
            victims = self._workers()
            if not victims:
                continue
            victim = dice.choice(victims)
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
            began = time.monotonic()
            self.tally.add("kills")
            while time.monotonic() - began < 10:
                now = self._workers()
                if victim not in now and len(now) >= len(victims):
                    self.recoveries_ms.append((time.monotonic() - began) * 1e3)
                    break
                time.sleep(0.005)

    def _load_and_unload(self) -> None:
        """A model comes, is asked, and goes."""
        while not self.is_over.wait(0.2):
            try:
                # A load on a worker that is killed meanwhile fails, which says so and leaves nothing behind.
                if self._manage("POST", "/models?url=passing&model_name=passing")[0] == 200:
                    self.tally.add("loads")
                    status, body = self._ask(self.port, "POST", "/models/passing/invoke", b"[1]")
                    if (status, body) != (200, b"[1]"):
                        self.tally.fail("refused", f"the model just loaded: {status} {body[:200]!r}")
                    status, body = self._manage("DELETE", "/models/passing")
                    if status != 200:
                        self.tally.fail("refused", f"unload: {status} {body[:200]!r}")
            except (OSError, http.client.HTTPException) as error:
                self.tally.fail("lost", f"management: {error}")

    def _workers(self) -> list[int]:
        return [pid for pid in procfs.tree(self.process.pid) if procfs.title(pid).startswith("headrace: worker")]

    def _manage(self, method: str, target: str) -> tuple[int, bytes]:
        return self._ask(self.management, method, target)

    def _ask(self, port: int, method: str, target: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request(method, target, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _sample(self) -> dict[str, float]:
        pids = list(procfs.tree(self.process.pid))
        text = self._manage("GET", "/metrics")[1].decode()
        slots = re.findall(r"^headrace_slots_leased(?:{[^}]*})? (\S+)$", text, re.MULTILINE)
        return {
            "memory_bytes": procfs.pss_bytes(self.process.pid),
            "descriptors": sum(map(_descriptors, pids)),
            "processes": len(pids),
            "slots": sum(map(float, slots)),
        }

    def _sample_at_rest(self) -> dict[str, float]:
        """When nobody asks any more: every slot must be free."""
        until = time.monotonic() + 10
        while (sample := self._sample())["slots"] and time.monotonic() < until:
            time.sleep(0.05)
        return sample


def _descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def judge(samples: list[dict[str, float]], counts: dict[str, int], has_kills: bool = True) -> list[str]:
    """What is wrong with it, in words; nothing is what is wanted. A soak that did nothing is no soak either."""
    found = [f"{counts[kind]} {kind}" for kind in ("wrong", "lost", "refused", "stuck clients") if counts.get(kind)]
    due = (*SHAPES, "vanished", "loads", *(["kills"] if has_kills else []))
    if missing := [kind for kind in due if not counts.get(kind)]:
        found.append(f"not done at all: {', '.join(missing)}")
    quarter = (len(samples) - 1) // 4
    for name, (factor, slack) in GROWTH.items():
        if quarter >= 3:
            before = statistics.median(sample[name] for sample in samples[quarter : 2 * quarter])
            after = statistics.median(sample[name] for sample in samples[3 * quarter : -1])
            if after > before * factor + slack:
                found.append(f"{name} grew from {before:.0f} to {after:.0f}")
    if samples[-1]["slots"]:
        found.append(f"{samples[-1]['slots']:.0f} slots are leased though nobody asks")
    return found


def plot(samples: list[dict[str, float]], path: Path) -> bool:
    """The curves as a PNG; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = (
        ("memory_bytes", "memory (PSS), MB", 1e-6),
        ("descriptors", "descriptors", 1),
        ("slots", "slots leased", 1),
    )
    figure, axes = pyplot.subplots(len(shown), 1, sharex=True, figsize=(9, 8))
    for axis, (name, label, scale) in zip(axes, shown, strict=True):
        axis.plot([sample["second"] for sample in samples], [sample[name] * scale for sample in samples])
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("seconds")
    figure.savefig(path, dpi=100)
    return True


def serving_ms(log: str) -> list[float]:
    """How long after the notice of each worker's death its successor served again, loads included; ascending."""
    return sorted(float(found) for found in re.findall(r" worker\.serving .*?\bafter_ms=(\S+)", log))


def quantiles(ordered: list[float]) -> dict[str, float | None]:
    """count, median, p99 and the largest."""
    return {
        "count": len(ordered),
        "median": statistics.median(ordered) if ordered else None,
        "p99": ordered[int(0.99 * (len(ordered) - 1))] if ordered else None,
        "max": ordered[-1] if ordered else None,
    }


def main(words: list[str]) -> int:
    arguments = _parse(words)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the server is ended, whatever ends the soak
    with tempfile.TemporaryDirectory() as directory:
        try:
            soak = Soak(arguments, Path(directory))
        except BenchError as error:
            print(f"soak: {error}", file=sys.stderr)
            return 1
        try:
            soak.run()
        finally:
            status = soak.stop()
        log = soak.log.read_text()
    counts = dict(soak.tally.counts)
    problems = judge(soak.samples, counts, bool(arguments.kill_every))
    problems += [f"the server ended with status {status}"] if status else []
    problems += [f"the log has {line}" for line in log.splitlines() if ".broke" in line or line.startswith("Traceback")]
    result: dict[str, Any] = {
        "environment": environment.describe(["python", "-m", "bench.soak", *words]),
        "counts": counts,
        "slowest_ms": soak.tally.slowest_ms,
        "kill_to_all_workers_ms": quantiles(sorted(soak.recoveries_ms)),
        "notice_to_serving_ms": quantiles(serving_ms(log)),
        "problems": problems,
        "failures": soak.tally.failures,
        "samples": soak.samples,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result) + "\n")
    is_drawn = plot(soak.samples, arguments.picture)
    print(f"soak: {arguments.seconds} s, {counts}")
    print(f"soak: from a kill to all workers again {result['kill_to_all_workers_ms']} ms")
    print(f"soak: from the notice of a death to serving again {result['notice_to_serving_ms']} ms")
    print(f"soak: {arguments.output}" + (f", {arguments.picture}" if is_drawn else "; no picture without matplotlib"))
    for text in (*problems, *soak.tally.failures[:10]):
        print(f"soak: {text}")
    print("soak: FAILED" if problems else "soak: passed")
    return 1 if problems else 0


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench.soak", description="Mixed traffic, kills, loads and unloads; all verified.")
    parser.add_argument("--seconds", type=int, default=1800, help="[default: %(default)s]")
    parser.add_argument("--clients", type=int, default=8, help="[default: %(default)s]")
    parser.add_argument("--workers", type=int, default=2, help="[default: %(default)s]")
    parser.add_argument("--kill-every", type=float, default=1.0, help="seconds; 0 = never [default: %(default)s]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULT, help="[default: %(default)s]")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="of the curves [default: %(default)s]")
    return parser.parse_args(words)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("soak: interrupted; no verdict", file=sys.stderr)
        sys.exit(130)
