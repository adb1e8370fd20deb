"""However the supervisor ends, no process stays: none of ours, and none that a model has started, wherever it hides."""

import contextlib
import http.client
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import ECHO, Server, is_alive, wait_until, write_model

# One that stays in its group, also with nothing in its environment; one in a session of its own; and one that a
# process in between has left to whoever takes orphans.
SPAWNING = """
import subprocess
from headrace import Model
SLEEP = ["sleep", "1000"]
class Spawning(Model):
    def load(self, directory):
        started = [
            subprocess.Popen(SLEEP),
            subprocess.Popen(SLEEP, env={}),
            subprocess.Popen(SLEEP, start_new_session=True),
        ]
        orphan = subprocess.check_output(
            ["sh", "-c", "sleep 1000 >/dev/null & echo $!"], start_new_session=True, text=True
        )
        (directory / "pids").write_text(" ".join(map(str, [*(each.pid for each in started), orphan])))
    def handle(self, requests):
        return [b"" for _ in requests]
"""
SLOW = """
import threading
from headrace import Model
class Slow(Model):
    def load(self, directory):
        (directory / "begun").touch()
        threading.Event().wait()
"""


def started_by_model(tmp_path: Path) -> list[psutil.Process]:
    return [psutil.Process(int(pid)) for pid in (tmp_path / "spawning" / "pids").read_text().split()]


def memory_files(processes: list[psutil.Process]) -> set[str]:
    """The server's shared memory that these processes map: `device inode` of each file."""
    found: set[str] = set()
    for process in processes:
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            found |= set(re.findall(r" ([0-9a-f:]+ \d+) +/memfd:headrace", maps))
    return found


def nothing(server: Server, tmp_path: Path) -> None:
    pass


def asking(server: Server, tmp_path: Path) -> None:
    """Clients that ask until nobody answers any more."""
    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            while server.post("/models/echo/invoke", b"[1]").status == 200:
                answered.set()

    for _ in range(3):
        threading.Thread(target=ask, daemon=True).start()
    assert answered.wait(60)


def loading(server: Server, tmp_path: Path) -> None:
    def load() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            server.manage("POST", "/models", {"url": "slow", "model_name": "slow"})

    threading.Thread(target=load, daemon=True).start()
    wait_until((tmp_path / "slow" / "begun").exists, "the load did not begin")


def replacing(server: Server, tmp_path: Path) -> None:
    """Its processes have just died, and successors are on their way."""
    for title in ("frontend", "template", "worker 0"):
        for process in server.named(f"headrace: {title}"):
            process.kill()


def with_another_warden(server: Server, tmp_path: Path) -> None:
    (warden,) = server.named("warden.py")
    warden.kill()
    wait_until(lambda: [each for each in server.named("warden.py") if each != warden], "no other warden")


@pytest.mark.parametrize("moment", [nothing, asking, loading, replacing, with_another_warden])
def test_should_leave_nothing_when_the_supervisor_is_killed(
    tmp_path: Path, moment: Callable[[Server, Path], None], record_property: Callable[[str, object], None]
) -> None:
    spawning = write_model(tmp_path / "spawning", SPAWNING)
    write_model(tmp_path / "slow", SLOW)
    server = Server(
        spawning, write_model(tmp_path / "echo", ECHO), "--model-store", str(tmp_path), HEADRACE_WORKERS="2"
    )
    try:
        server.ready()
        moment(server, tmp_path)
        everyone = list({*server.family(), *started_by_model(tmp_path)})
        memory = memory_files(everyone)
        assert len(memory) == 2 or moment is replacing  # the board and a segment
    finally:
        os.kill(server.process.pid, signal.SIGKILL)
    began = time.monotonic()
    wait_until(lambda: not any(map(is_alive, everyone)), "somebody is left")
    record_property("left_nothing_after_ms", round(1e3 * (time.monotonic() - began)))
    server.process.wait(60)
    server.reader.join(60)  # nobody has the log open any more, not even one whom we have never seen
    assert not memory & memory_files(list(psutil.process_iter()))


def test_should_leave_nothing_that_a_model_has_started_when_the_server_ends(tmp_path: Path) -> None:
    server = Server(write_model(tmp_path / "spawning", SPAWNING), HEADRACE_WORKERS="1").ready()
    processes = started_by_model(tmp_path)
    assert server.stop() == 0
    assert not any(map(is_alive, processes))


def test_should_spare_what_is_not_of_the_server(tmp_path: Path) -> None:
    """Two servers, one with the other's models and environment: each has a mark of its own."""
    first = Server(write_model(tmp_path / "spawning", SPAWNING), HEADRACE_WORKERS="1").ready()
    second = Server(write_model(tmp_path / "echo", ECHO), HEADRACE_WORKERS="1").ready()
    processes = [*first.family(), *started_by_model(tmp_path)]
    os.kill(second.process.pid, signal.SIGKILL)
    second.process.wait(60)
    second.reader.join(60)
    assert all(map(is_alive, processes))
    assert first.post("/models/spawning/invoke", b"").status == 200
    assert first.stop() == 0
