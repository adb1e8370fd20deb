"""What the kernel says about a process and all of its descendants. Linux only."""

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Stat:
    """cpu_us: user and system time of the process and of those of its children that it has waited for."""

    parent: int
    cpu_us: float


def tree(root: int) -> dict[int, Stat]:
    """The process *root* and its descendants, by pid. Empty when there is no such process."""
    everyone = {int(entry.name): stat for entry in PROC.iterdir() if entry.name.isdigit() and (stat := _stat(entry))}
    found = {root: everyone[root]} if root in everyone else {}
    size = 0
    while len(found) > size:
        size = len(found)
        found.update({pid: stat for pid, stat in everyone.items() if stat.parent in found})
    return found


def pss_bytes(root: int) -> int:
    """Memory of the tree, a page that n processes share counting 1/n in each. Without the kernel's own (sockets)."""
    return sum(_pss_bytes(pid) for pid in tree(root))


def descriptors(root: int) -> int:
    """File descriptors that the tree has open."""
    found = 0
    for pid in tree(root):
        try:
            found += len(os.listdir(PROC / str(pid) / "fd"))
        except OSError:
            continue
    return found


def title(pid: int) -> str:
    """What `ps` shows, shortened; empty when the process is gone."""
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ""
    text = words.replace(b"\0", b" ").decode(errors="replace").strip()
    return text if len(text) <= 60 else text[:57] + "..."


def _stat(entry: Path) -> Stat | None:
    try:
        text = (entry / "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # a command's name may hold blanks and brackets
    return Stat(int(fields[1]), sum(map(int, fields[11:15])) * 1e6 / TICKS_PER_SECOND)


def _pss_bytes(pid: int) -> int:
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
