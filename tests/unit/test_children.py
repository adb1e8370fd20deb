"""Reaping real children, describing their ends, and the pauses between tries."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from headrace import children, control, processes
from headrace.children import Backoff, Death, Reaper

SLEEP = "import os; os.read(3, 1)"  # until our end of the channel goes


def run(script: Callable[[Reaper], Awaitable[None]]) -> None:
    async def main() -> None:
        reaper = Reaper()
        try:
            await asyncio.wait_for(script(reaper), 30)
        finally:
            reaper.close()

    asyncio.run(main())


def spawn(code: str) -> tuple[int, int]:
    """pid, and our end of its channel."""
    ours, theirs = control.pair()
    with theirs:
        return processes.spawn_command([sys.executable, "-S", "-c", code], theirs), ours.detach()


def test_exit_statuses_and_signals_are_told_apart() -> None:
    async def script(reaper: Reaper) -> None:
        pid, fd = spawn("raise SystemExit(70)")
        death = await children.wait_for_death(reaper.watch(pid))
        os.close(fd)
        assert (death.status, death.signal, death.is_boot_failure, str(death)) == (70, 0, True, "ended with status 70")
        pid, fd = spawn(SLEEP)
        watched = reaper.watch(pid)
        os.kill(pid, signal.SIGTERM)
        death = await children.wait_for_death(watched)
        os.close(fd)
        assert death == Death(pid, 0, signal.SIGTERM)
        assert str(death) == "was killed by SIGTERM"
        assert death.fields() == {"pid": pid, "signal": "SIGTERM"}

    run(script)


def test_an_end_before_the_watch_is_not_lost_and_strangers_are_reaped() -> None:
    async def script(reaper: Reaper) -> None:
        pid, fd = spawn("raise SystemExit(3)")
        os.close(fd)
        while os.path.exists(f"/proc/{pid}"):  # until it is reaped, watched or not
            await asyncio.sleep(0.01)
        assert (await reaper.watch(pid)).status == 3

    run(script)


def test_what_a_child_leaves_behind_ends_with_it() -> None:
    async def script(reaper: Reaper) -> None:
        processes.become_subreaper()
        pid, fd = spawn("import os; os.write(3, str(os.fork() or os.read(3, 1)).encode()); os._exit(0)")
        watched = reaper.watch(pid)
        loop = asyncio.get_running_loop()
        grandchild = int(await loop.run_in_executor(None, os.read, fd, 16))
        await children.wait_for_death(watched)
        assert (await reaper.watch(grandchild)).signal == signal.SIGKILL
        os.close(fd)

    run(script)


def test_backoff_doubles_and_a_healthy_minute_starts_over() -> None:
    backoff = Backoff()
    pauses = [backoff.after(Backoff.HEALTHY_S / 2) for _ in range(13)]
    assert pauses[:4] == [0.0, 0.05, 0.1, 0.2]
    assert pauses[-1] == Backoff.LAST_S
    assert backoff.after(Backoff.HEALTHY_S) == 0.0
    assert backoff.after(0.0) == Backoff.FIRST_S


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/vmstat": "pgfault 5\noom_kill 7\n"}, 7),
        ({}, 0),
        (
            {
                "proc/self/cgroup": "0::/\n",
                "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
                "sys/fs/cgroup/memory.events": "low 0\noom 3\noom_kill 2\noom_group_kill 0\n",
                "proc/vmstat": "oom_kill 7\n",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/\n",
                "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
                "sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
            },
            4,
        ),
    ],
)
def test_oom_kills_are_counted_where_the_kernel_tells(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert children.oom_kills(str(tmp_path)) == expected


def test_an_out_of_memory_death_says_so() -> None:
    death = Death(5, 0, signal.SIGKILL, out_of_memory=True)
    assert death.fields() == {"pid": 5, "signal": "SIGKILL", "hint": "out of memory?"}
    assert str(death) == "was killed by SIGKILL (out of memory?)"
