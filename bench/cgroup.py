"""A control group with a memory limit, for a server to run in: the kernel as the judge. Needs root.

Source: the kernel's admin-guide, cgroup-v1/memory.rst and cgroup-v2.rst.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError

V1 = Path("/sys/fs/cgroup/memory")
V2 = Path("/sys/fs/cgroup")
EMPTY_S = 10.0  # that its processes take to be gone


@dataclass(frozen=True)
class Group:
    """path: its directory. is_v1: its version."""

    path: Path
    is_v1: bool

    def words(self) -> list[str]:
        """What to put before a command that is to run in it."""
        return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.path)]

    def peak_bytes(self) -> int:
        """The most that was charged to it, page cache included."""
        return int((self.path / ("memory.max_usage_in_bytes" if self.is_v1 else "memory.peak")).read_text())

    def kills(self) -> int:
        """Processes that the kernel has ended for want of memory."""
        text = (self.path / ("memory.oom_control" if self.is_v1 else "memory.events")).read_text()
        found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
        if found is None:
            raise BenchError(f"{self.path} does not count what the kernel kills: Linux 4.13 or later is needed")
        return int(found[1])


@contextlib.contextmanager
def limited(limit_bytes: int) -> Iterator[Group]:
    """A new group; removed at the end. BenchError where none can be made."""
    is_v1 = (V1 / "memory.limit_in_bytes").exists()
    group = Group((V1 if is_v1 else V2) / f"headrace-bench-{os.getpid()}", is_v1)
    try:
        if not is_v1:
            (V2 / "cgroup.subtree_control").write_text("+memory")
        group.path.mkdir()
        (group.path / ("memory.limit_in_bytes" if is_v1 else "memory.max")).write_text(str(limit_bytes))
    except OSError as error:
        raise BenchError(f"no control group with a memory limit can be made here, as root it could: {error}") from None
    try:
        yield group
    finally:
        until_s = time.monotonic() + EMPTY_S
        while (group.path / "cgroup.procs").read_text() and time.monotonic() < until_s:
            time.sleep(0.01)
        group.path.rmdir()
