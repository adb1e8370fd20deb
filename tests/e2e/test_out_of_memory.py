"""Whatever lacks memory is answered 507: at a load and at a request, told by Python or by the kernel."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ECHO, Serve, Server, wait_until, write_model

GROUPS = Path(
    "/sys/fs/cgroup/memory"
)  # version 1; version 2 has its files elsewhere, and tests of its own in test_machine
LIMIT = 256 << 20
# Takes a GiB at its load or for a request: what it asks Python for, or what it writes to.
HUNGRY = """
import numpy as np
from headrace import Model
def eat(way):
    if way == "python":
        raise MemoryError("a GiB")
    return np.ones(1 << 27)
class Hungry(Model):
    def load(self, directory):
        self.way = (directory / "way").read_text()
        if (directory / "at_load").exists():
            eat(self.way)
    def handle(self, requests):
        if b"eat" in bytes(requests[0].body):
            eat(self.way)
        return [b"fed" for _ in requests]
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with so little memory that the kernel's killer has to strike, with this process in it."""
    home = next((line.split(":", 2)[2] for line in _lines("/proc/self/cgroup") if ":memory:" in line), None)
    path = GROUPS / f"headrace-test-{os.getpid()}"
    try:
        path.mkdir()
        (path / "memory.limit_in_bytes").write_text(str(LIMIT))
    except OSError as error:
        pytest.skip(f"no control group of memory, version 1, can be made here: {error}")
    try:
        yield path
    finally:
        assert home is not None
        (GROUPS / home.strip("/") / "cgroup.procs").write_text(str(os.getpid()))
        wait_until(lambda: not (path / "cgroup.procs").read_text(), "processes stay in the control group")
        path.rmdir()


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def start_within(group: Path, serve: Serve, *arguments: str, **environment: str) -> Server:
    """A server in the group: its processes are born there, this one goes back."""
    home = next(line.split(":", 2)[2] for line in _lines("/proc/self/cgroup") if ":memory:" in line)
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        server = serve.begin(*arguments, **environment)
    finally:
        (GROUPS / home.strip("/") / "cgroup.procs").write_text(str(os.getpid()))
    return server.ready()


def load(server: Server, path: Path):
    return server.manage("POST", "/models", {"model_name": path.name, "url": str(path)})


@pytest.mark.parametrize("isolation", ["shared", "process"])
def test_memory_that_python_has_not(serve: Serve, tmp_path: Path, isolation: str) -> None:
    write_model(tmp_path / "hungry", HUNGRY, way="python")
    server = serve("--model-store", str(tmp_path), HEADRACE_ISOLATION=isolation)
    (tmp_path / "hungry" / "at_load").touch()
    answer = load(server, tmp_path / "hungry")
    assert (answer.status, answer.json()["type"]) == (507, "InsufficientStorageException")
    assert "out of memory while loading: a GiB" in answer.json()["message"]
    (tmp_path / "hungry" / "at_load").unlink()
    assert load(server, tmp_path / "hungry").status == 200
    assert server.post("/models/hungry/invoke", b"eat").status == 507
    assert server.post("/models/hungry/invoke", b"x").body == b"fed"
    assert not server.find("worker.lost")


@pytest.mark.parametrize("extra_workers", ["0", "8"])
def test_memory_that_the_kernel_has_not(group: Path, serve: Serve, tmp_path: Path, extra_workers: str) -> None:
    write_model(tmp_path / "hungry", HUNGRY, way="kernel")
    store = ("--model-store", str(tmp_path), "--models", "echo")
    write_model(tmp_path / "echo", ECHO)
    more = {"HEADRACE_WORKERS": "1", "HEADRACE_ARENA": "16MiB", "HEADRACE_EXTRA_WORKERS": extra_workers}
    server = start_within(group, serve, *store, **more)
    (tmp_path / "hungry" / "at_load").touch()
    answer = load(server, tmp_path / "hungry")
    assert (answer.status, answer.json()["type"]) == (507, "InsufficientStorageException"), answer.body
    assert "was killed by SIGKILL (out of memory?) while loading it" in answer.json()["message"]
    wait_until(lambda: server.post("/models/echo/invoke", b"[1]").body == b"[1]", "a neighbour is lost")
    (tmp_path / "hungry" / "at_load").unlink()
    assert load(server, tmp_path / "hungry").status == 200
    answer = server.post("/models/hungry/invoke", b"eat")
    assert answer.status == 507, answer.body
    assert "for want of memory" in answer.json()["message"]
    wait_until(lambda: server.post("/models/hungry/invoke", b"x").body == b"fed", "it does not come back")
    assert server.find(r"worker\.lost .*hint=\"out of memory\?\"")
    assert server.post("/models/echo/invoke", b"[1]").body == b"[1]"
