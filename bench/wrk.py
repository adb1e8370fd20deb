"""The load generator: wrk with one thread, closed loop, every connection kept.

Latencies are wrk's own, in whole microseconds; it fills in the requests that a stall kept it from sending. Its status
errors are those above 399, and it reconnects without a word when a server closes a connection: so answers and
keep-alive are checked apart from it (servers.Running.check).
"""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError

SCRIPT = Path(__file__).with_name("post.lua")
MARK = "RESULT "
TIMEOUT_S = 10


@dataclass(frozen=True)
class Load:
    """One run. errors: connect, read, write, status, timeout."""

    requests: int
    duration_us: int
    bytes: int
    p50_us: int
    p99_us: int
    p999_us: int
    max_us: int
    errors: dict[str, int]

    @classmethod
    def parse(cls, output: str) -> "Load":
        """From what wrk printed."""
        lines = [line for line in output.splitlines() if line.startswith(MARK)]
        if len(lines) != 1:
            raise BenchError(f"wrk printed {len(lines)} result lines, not one: {output[-500:]}")
        return cls(**json.loads(lines[0].removeprefix(MARK)))


def find() -> str:
    """Path of the program. BenchError where there is none."""
    path = shutil.which("wrk")
    if path is None:
        raise BenchError("wrk, the load generator, is not here: apt-get install wrk")
    return path


def version() -> str:
    """As wrk says it, which then complains that it was given no URL."""
    words = subprocess.run([find(), "-v"], capture_output=True, text=True).stdout.split()
    return " ".join(words[1:2])


def run(url: str, body: Path, headers: Mapping[str, str], connections: int, seconds: int) -> Load:
    """Post the file *body* to *url* for so long."""
    words = [str(body), *(word for pair in headers.items() for word in pair)]
    command = [find(), "-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={TIMEOUT_S}s", "-s", str(SCRIPT)]
    done = subprocess.run([*command, url, "--", *words], capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"wrk ended with status {done.returncode}: {done.stderr[-500:]}")
    return Load.parse(done.stdout)
