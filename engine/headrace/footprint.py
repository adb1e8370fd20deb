"""What processes and shared memory take, by counters that are exact and cheap to read.

    a process that was executed   its anonymous pages (/proc/PID/statm: resident less shared)
    a forked worker               the same, less the pages that it still shares with the template
    shared memory                 st_blocks of each memfd, whether or not anybody maps it

Pages of files (code, memory-mapped weights) are the page cache's: the kernel drops them when it needs room. How many
pages are shared is told by what the kernel takes off a page for being shared: 1/k is left of one that k processes have,
and of what is inherited nearly all is had by all. (Its count of private pages would say more, but mixes in those of
memfds.) It comes from /proc/PID/smaps_rollup, which stalls a large process while it is read (15 ms for each GiB of
small pages, measured), and so is read only at first sight and while a worker is small; it can only shrink later, so
that a large worker is never taken for smaller than it is by more than the template's own size.
"""

import os
import re
from collections.abc import Iterable, Mapping

SMALL_BYTES = 64 << 20

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_ROLLUP = re.compile(rb"^(Anonymous|Pss_Anon|Private_Dirty): +(\d+) kB", re.MULTILINE)


def anonymous_bytes(pid: int) -> int:
    """Anonymous pages of a process, those that it shares with its parent included; 0 when there is no such process."""
    resident, shared = _statm(pid)
    return max(0, resident - shared)


def resident_bytes(pid: int) -> int:
    """All pages of a process that are in memory, files' and shared ones included; 0 when there is no such process."""
    return _statm(pid)[0]


def _statm(pid: int) -> tuple[int, int]:
    """Resident bytes of a process, and those of files and shared memory among them. Source: proc_pid_statm(5)."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            fields = file.read().split()
    except OSError:
        return 0, 0
    return int(fields[1]) * _PAGE_BYTES, int(fields[2]) * _PAGE_BYTES


class Footprints:
    """Remembers, for each worker's process, how much it inherited."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, int]] = {}  # pid -> (anonymous when the share was read, inherited)
        self._sharers = 2  # processes that have the template's pages: itself, and each worker

    def of_workers(self, pids: Mapping[int, int]) -> dict[int, int]:
        """Private bytes of each worker; pids: worker index -> pid. Those that are not named are forgotten."""
        alive = set(pids.values())
        self._seen = {pid: seen for pid, seen in self._seen.items() if pid in alive}
        self._sharers = 1 + max(1, len(alive))
        return {worker: self.of_worker(pid) for worker, pid in pids.items()}

    def of_worker(self, pid: int) -> int:
        """Private bytes of a worker's process."""
        anonymous = anonymous_bytes(pid)
        at, inherited = self._seen.get(pid, (-1, 0))
        if at < 0 or (at != anonymous and anonymous < SMALL_BYTES):
            inherited = _inherited_bytes(pid, self._sharers)
            self._seen[pid] = anonymous, inherited
        return max(0, anonymous - inherited)


def of_others(pids: Iterable[int], memfds: Iterable[int]) -> int:
    """Bytes of processes that were executed rather than forked, and of shared memory."""
    shared = 0
    for fd in memfds:
        try:
            shared += os.fstat(fd).st_blocks * 512
        except OSError:  # closed with its frontend
            continue
    return sum(map(anonymous_bytes, pids)) + shared


def _inherited_bytes(pid: int, sharers: int) -> int:
    """Anonymous pages that the process shares with *sharers* - 1 others."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            found = {name: int(value) << 10 for name, value in _ROLLUP.findall(file.read())}
    except OSError:
        return 0
    anonymous = found.get(b"Anonymous", 0)
    if b"Pss_Anon" in found:
        return min(anonymous, (anonymous - found[b"Pss_Anon"]) * sharers // (sharers - 1))
    return max(0, anonymous - found.get(b"Private_Dirty", 0))  # before Linux 5.3
