"""A soak that is interrupted ends its server."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from conftest import is_alive, wait_until

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_soak_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    words = ["--clients", "1", "--workers", "1", "--output", str(tmp_path / "soak.json")]
    command = [sys.executable, "-m", "bench.soak", *words]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True) as soak:
        try:
            process = psutil.Process(soak.pid)
            wait_until(lambda: any(map(is_worker, process.children(recursive=True))), "its server does not come up")
            family = process.children(recursive=True)
            soak.send_signal(number)
            _, said = soak.communicate(timeout=60)
        finally:
            soak.kill()
    assert soak.returncode == 130, said
    assert b"interrupted" in said
    wait_until(lambda: not any(map(is_alive, family)), "a process stayed behind")
    assert not (tmp_path / "soak.json").exists()


def is_worker(process: psutil.Process) -> bool:
    try:
        return any("headrace: worker" in word for word in process.cmdline())
    except psutil.Error:  # gone meanwhile
        return False
