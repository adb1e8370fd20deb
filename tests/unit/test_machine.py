"""machine: limits read from fake trees that look as the kernel and the container engines make them."""

import os
from pathlib import Path

import pytest

from headrace import machine

MEMINFO = "MemTotal:       16384000 kB\nMemFree:         1 kB\n"
PHYSICAL = 16384000 * 1024
V2 = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "31 23 0:27 {root} /sys/fs/cgroup/{name} rw,nosuid shared:{id} - cgroup cgroup rw,{name}\n"


@pytest.fixture
def tree(tmp_path):
    """Writes {path: text} below a root and gives the root."""

    def write(files: dict[str, str]) -> str:
        for path, text in {"proc/meminfo": MEMINFO, **files}.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return str(tmp_path)

    return write


def v2(tree, path="/", mount_root="/", **files):
    base = {"proc/self/cgroup": f"0::{path}\n", "proc/self/mountinfo": V2.format(root=mount_root)}
    return tree({**base, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}})


def v1(tree, path, mount_root="/", **files):
    lines = "".join(f"{number}:{name}:{path}\n" for number, name in enumerate(("memory", "cpu,cpuacct"), 2))
    mounts = V1.format(root=mount_root, name="memory", id=1) + V1.format(root=mount_root, name="cpu,cpuacct", id=2)
    base = {"proc/self/cgroup": lines + "1:name=systemd:/\n", "proc/self/mountinfo": mounts}
    return tree({**base, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}})


def test_version_2_in_a_container(tree):
    root = v2(tree, **{"memory.max": "1073741824\n", "cpu.max": "150000 100000\n"})
    assert machine.cgroup_memory_bytes(root) == 1 << 30
    assert machine.memory_limit_bytes(root) == 1 << 30
    assert machine.cpu_quota(root) == 1.5


def test_version_2_without_limits(tree):
    root = v2(tree, **{"memory.max": "max\n", "cpu.max": "max 100000\n"})
    assert machine.cgroup_memory_bytes(root) is None
    assert machine.cpu_quota(root) is None
    assert machine.memory_limit_bytes(root) == PHYSICAL


def test_an_ancestor_may_be_tighter_than_the_leaf(tree):
    root = v2(
        tree,
        "/pod/container",
        **{
            "pod/container/memory.max": "4000000000",
            "pod/memory.max": "2000000000",
            "pod/container/cpu.max": "max 100000",
        },
        **{"pod/cpu.max": "50000 100000"},
    )
    assert machine.cgroup_memory_bytes(root) == 2_000_000_000
    assert machine.cpu_quota(root) == 0.5


def test_version_1_in_a_container_that_sees_its_host_path(tree):
    """Docker without a control group namespace: the path is the host's, and the mount's root is that same path."""
    root = v1(
        tree,
        "/docker/abc",
        "/docker/abc",
        **{"memory/memory.limit_in_bytes": "536870912\n"},
        **{"cpu,cpuacct/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
    )
    assert machine.cgroup_memory_bytes(root) == 512 << 20
    assert machine.cpu_quota(root) == 2.5


def test_version_1_without_limits(tree):
    root = v1(
        tree,
        "/",
        **{"memory/memory.limit_in_bytes": "9223372036854771712\n"},
        **{"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
    )
    assert machine.memory_limit_bytes(root) == PHYSICAL
    assert machine.cpu_quota(root) is None


def test_both_versions_side_by_side(tree):
    root = tree(
        {
            "proc/self/cgroup": "4:memory:/job\n0::/\n",
            "proc/self/mountinfo": V1.format(root="/", name="memory", id=1)
            + "33 23 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "700000000",
        }
    )
    assert machine.cgroup_memory_bytes(root) == 700_000_000


def test_a_path_outside_of_the_mount_is_read_at_the_mount(tree):
    root = v2(tree, "/../../other", **{"memory.max": "300000000"})
    assert machine.cgroup_memory_bytes(root) == 300_000_000


def test_a_mount_point_with_a_blank(tree):
    mounts = "30 23 0:26 / /sys/my\\040groups rw - cgroup2 cgroup2 rw\n"
    files = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": mounts, "sys/my groups/memory.max": "123456789"}
    assert machine.cgroup_memory_bytes(tree(files)) == 123_456_789


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "\n::\nnonsense\n0::\n", "proc/self/mountinfo": "- -\n30 23 - cgroup2\n"},
        {"proc/self/cgroup": "0::/", "proc/self/mountinfo": V2.format(root="/"), "sys/fs/cgroup/memory.max": "much"},
        {"proc/self/cgroup": "0::/", "proc/self/mountinfo": V2.format(root="/"), "sys/fs/cgroup/cpu.max": "1 0"},
    ],
)
def test_what_cannot_be_read_is_no_limit(tree, files):
    root = tree(files)
    assert machine.cgroup_memory_bytes(root) is None
    assert machine.cpu_quota(root) is None


@pytest.mark.parametrize(
    ("quota", "cpus", "cores"), [("150000", 8, 2), ("800000", 4, 4), ("1000", 4, 1), ("max", 3, 3), ("200000", 8, 2)]
)
def test_usable_cores_are_the_mask_capped_by_the_quota_rounded_up(tree, quota, cpus, cores):
    assert machine.usable_cores(v2(tree, **{"cpu.max": f"{quota} 100000"}), cpus=cpus) == cores


def test_headroom_is_the_least_of_what_the_machine_and_the_groups_have_left(tree):
    meminfo = "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n"
    group = {
        "memory.max": str(3 << 30),
        "memory.current": str(2 << 30),
        "memory.stat": f"anon 5\ninactive_file {1 << 28}",
    }
    root = v2(tree, **group)
    Path(root, "proc/meminfo").write_text(meminfo)
    assert machine.memory_headroom_bytes(root) == (1 << 30) + (1 << 28)
    root = v2(tree, **{**group, "memory.max": "max"})
    Path(root, "proc/meminfo").write_text(meminfo)
    assert machine.memory_headroom_bytes(root) == 4 << 30


def test_headroom_of_this_machine():
    room = machine.memory_headroom_bytes()
    assert room is not None
    assert 0 < room <= machine.physical_memory_bytes()


def test_this_machine():
    assert set(machine.usable_cpus()) == os.sched_getaffinity(0)
    assert 1 <= machine.usable_cores() <= len(machine.usable_cpus())
    assert 0 < machine.memory_limit_bytes() <= machine.physical_memory_bytes()


@pytest.mark.parametrize(
    ("text", "lists"),
    [
        ("2-3;4-5", ((2, 3), (4, 5))),
        ("0", ((0,),)),
        ("7,0-2,1", ((0, 1, 2, 7),)),
        (" 1 ; 2-3 ", ((1,), (2, 3))),
        ("0;0", ((0,), (0,))),
    ],
)
def test_cpu_lists(text, lists):
    assert machine.parse_cpu_lists(text) == lists


@pytest.mark.parametrize("text", ["", ";", "1;", "1,,2", "3-2", "-1", "a", "1-", "1-2-3", "0-99999999", "4096", "٢"])
def test_what_is_no_cpu_list(text):
    with pytest.raises(ValueError, match="worker"):
        machine.parse_cpu_lists(text)
