"""What this process may use of the machine: memory, cores, CPU numbers; the container's limits counted in.

Control groups of version 1 and 2 are read, also side by side, also where the container sees only its own part of the
tree. A limit of any ancestor binds, so the smallest on the way up counts. Every function that reads files takes `root`,
the directory that stands for `/`; a file that is missing or unreadable means "no limit", never an error.
"""

import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

_OCTAL = re.compile(r"\\([0-7]{3})")  # how mountinfo writes blanks in a path
CPU_MAX = 4095  # what the kernel can be built for, less one


def usable_cpus() -> tuple[int, ...]:
    """Numbers of the CPUs that this process may run on, ascending."""
    return tuple(sorted(os.sched_getaffinity(0)))


def usable_cores(root: str = "/", cpus: int | None = None) -> int:
    """How many CPUs can be kept busy: those of the affinity mask, at most the CPU quota rounded up; at least 1."""
    count = len(usable_cpus()) if cpus is None else cpus
    quota = cpu_quota(root)
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def memory_limit_bytes(root: str = "/") -> int:
    """The control group's memory limit, else (or where that is no real limit) the machine's memory."""
    physical = physical_memory_bytes(root)
    limit = cgroup_memory_bytes(root)
    return physical if limit is None else min(limit, physical)


def physical_memory_bytes(root: str = "/") -> int:
    """MemTotal of /proc/meminfo; where that cannot be read, what sysconf says."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", _read(Path(root, "proc/meminfo")), re.MULTILINE)
    return int(found[1]) * 1024 if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cgroup_memory_bytes(root: str = "/") -> int | None:
    """The smallest memory limit over this process's control group and its ancestors. None: there is none."""
    limit = _smallest(root, "memory", _memory_v2, _memory_v1)
    return None if limit is None else int(limit)


def memory_headroom_bytes(root: str = "/") -> int | None:
    """What can still be taken before the machine or a control group's limit on the way up is hit. None: not told.

    Page cache that the kernel would drop (inactive_file of memory.stat) counts as room, as in MemAvailable.
    """
    rooms = []
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read(Path(root, "proc/meminfo")), re.MULTILINE)
    if found:
        rooms.append(int(found[1]) * 1024)
    physical = physical_memory_bytes(root)
    for version, group in control_groups(root, "memory"):
        limit = _memory_v2(group) if version == 2 else _memory_v1(group)
        used = _number(_read(group / ("memory.current" if version == 2 else "memory.usage_in_bytes")))
        if limit is None or used is None or limit >= physical:
            continue
        key = "inactive_file" if version == 2 else "total_inactive_file"
        cache = re.search(rf"^{key} (\d+)$", _read(group / "memory.stat"), re.MULTILINE)
        rooms.append(int(limit) - used + (int(cache[1]) if cache else 0))
    return min(rooms, default=None)


def cpu_quota(root: str = "/") -> float | None:
    """CPUs' worth of time that the control group grants, such as 1.5. None: no quota."""
    return _smallest(root, "cpu", _cpu_v2, _cpu_v1)


def parse_cpu_lists(text: str) -> tuple[tuple[int, ...], ...]:
    """CPU lists in the kernel's notation, one a worker, apart by `;`: "2-3;4,6" -> ((2, 3), (4, 6)).

    Lists may share CPUs; each comes back ascending, without repeats. Raises ValueError that says which list is wrong.
    """
    return tuple(_parse_cpu_list(part.strip(), index) for index, part in enumerate(text.split(";")))


def _parse_cpu_list(text: str, index: int) -> tuple[int, ...]:
    cpus: set[int] = set()
    for item in text.split(","):
        found = re.fullmatch(r"\s*([0-9]{1,4})(?:-([0-9]{1,4}))?\s*", item)
        if not found:
            raise ValueError(f"CPU list {text!r} of worker {index} is unreadable at {item!r}; write it like 0-3,6")
        first, last = int(found[1]), int(found[2] or found[1])
        if not first <= last <= CPU_MAX:
            raise ValueError(f"CPU range {item.strip()!r} of worker {index} must rise and end at {CPU_MAX} or below")
        cpus.update(range(first, last + 1))
    return tuple(sorted(cpus))


Reader = Callable[[Path], "float | None"]


def _memory_v2(group: Path) -> float | None:
    return _number(_read(group / "memory.max"))


def _memory_v1(group: Path) -> float | None:
    return _number(_read(group / "memory.limit_in_bytes"))


def _cpu_v2(group: Path) -> float | None:
    quota, _, period = _read(group / "cpu.max").partition(" ")
    return _ratio(quota, period)


def _cpu_v1(group: Path) -> float | None:
    return _ratio(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us"))


def _smallest(root: str, controller: str, v2: Reader, v1: Reader) -> float | None:
    limits = [(v2 if version == 2 else v1)(group) for version, group in control_groups(root, controller)]
    return min((limit for limit in limits if limit is not None), default=None)


def control_groups(root: str, controller: str) -> Iterator[tuple[int, Path]]:
    """(version, directory) of each control group of this process that can limit *controller*, from leaf to top."""
    mounts = list(_mounts(root))
    for line in _read(Path(root, "proc/self/cgroup")).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        version = 1 if controllers else 2
        if version == 1 and controller not in controllers.split(","):
            continue
        for mount_version, mount_root, directory, options in mounts:
            if mount_version != version or (version == 1 and controller not in options):
                continue
            for group in _ancestry(path, mount_root):
                yield version, Path(root, directory.lstrip("/"), group)
            break


def _ancestry(path: str, mount_root: str) -> Iterator[str]:
    """Relative directories from the group *path* up to the mount's own; outside of the mount only the latter."""
    parts = path.strip("/").split("/") if path.strip("/") else []
    top = mount_root.strip("/").split("/") if mount_root.strip("/") else []
    inside = parts[len(top) :] if parts[: len(top)] == top and ".." not in parts else []
    for depth in range(len(inside), -1, -1):
        yield "/".join(inside[:depth])


def _mounts(root: str) -> Iterator[tuple[int, str, str, list[str]]]:
    """(version, root within the hierarchy, mount point, controllers) of each control group mount; see proc(5)."""
    for line in _read(Path(root, "proc/self/mountinfo")).splitlines():
        fields, _, rest = line.partition(" - ")
        columns, tail = fields.split(), rest.split()
        if len(columns) >= 5 and len(tail) >= 3 and tail[0] in ("cgroup", "cgroup2"):
            yield 1 if tail[0] == "cgroup" else 2, _unescape(columns[3]), _unescape(columns[4]), tail[2].split(",")


def _unescape(path: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), path)


def _number(text: str) -> int | None:
    """A limit in bytes; None for "max" and for nonsense."""
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else None


def _ratio(quota: str, period: str) -> float | None:
    quota_us, period_us = _number(quota), _number(period)
    return quota_us / period_us if quota_us and period_us else None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
