"""Where a result was measured: what somebody needs to know who wants to repeat or to doubt it."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench import wrk

ROOT = Path(__file__).parents[1]
PACKAGES = ("headrace", "numpy", "orjson", "psutil", "setproctitle", "uvloop")


def describe(command: list[str]) -> dict[str, Any]:
    """JSON. Whatever this machine does not tell is None."""
    return {
        "commit": _output("git", "rev-parse", "HEAD"),
        "is_modified": bool(_output("git", "status", "--porcelain")),
        "command": command,
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_average": os.getloadavg()[0],
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in PACKAGES},
        "wrk": wrk.version(),
        "cc": (_output(os.environ.get("CC", "cc"), "--version") or "").split("\n")[0] or None,
        "variables": {name: value for name, value in sorted(os.environ.items()) if name.startswith("HEADRACE_")},
    }


def _cpu_model() -> str | None:
    lines = (_read("/proc/cpuinfo") or "").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
