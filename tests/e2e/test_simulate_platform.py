"""What `headrace simulate` does when there is no room, no time, or no container."""

import json
import sys

import botocore.exceptions
import pytest

from tests.e2e.conftest import is_alive, serve, wait_until
from tests.e2e.simulated import Simulator, as_json, invoke, pack, simulating

__all__ = ["serve"]
SERVE = ("--", sys.executable, "-m", "headrace", "serve")
QUICK = ("--ping-interval", "100ms", "--ping-timeout", "500ms", "--ping-failures", "2", "--stop-timeout", "2s")
# Takes as much memory as the package says; waits for the files `loaded` and `answered` where told to.
MODEL = """
import os, time
from pathlib import Path
import numpy as np
from headrace import Model

class Sized(Model):
    isolation = "shared"
    def load(self, directory):
        mib, self.name, gate = (directory / "spec").read_text().split()
        self.gate = Path(gate)
        while gate != "-" and not (self.gate / "loaded").exists():
            time.sleep(0.005)
        self.weights = np.full(int(mib) << 17, 1.0)
    def handle(self, requests):
        while any(bytes(one.body) == b'"wait"' for one in requests) and not (self.gate / "answered").exists():
            time.sleep(0.005)
        return [{"name": self.name} for _ in requests]
"""


@pytest.fixture
def simulate():
    with simulating() as start:
        yield start


def models(folder, count, mib=0, gate="-"):
    """A folder of packages m0.tar.gz ..."""
    for index in range(count):
        pack(folder, f"m{index}.tar.gz", {"model.py": MODEL, "spec": f"{mib} m{index} {gate}"})
    return folder


def names(client, targets):
    return [as_json(invoke(client, f"m{index}.tar.gz"))["name"] for index in targets]


def did(simulator, event):
    """Models of the simulator's events of this name, in order."""
    return simulator.find(rf"simulate {event} model=(\w+)\.tar\.gz")


def refusal(client, *words):
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        invoke(client, *words)
    return caught.value.response


def test_more_models_than_memory(simulate, tmp_path):
    """507, the least recently used one is unloaded, the load is tried again; what is unloaded stays on the disk."""
    folder = models(tmp_path / "s3", 8, mib=40)
    trace = tmp_path / "trace"
    budget = {"HEADRACE_MEMORY_BUDGET": "320MiB", "HEADRACE_ARENA": "32MiB", "HEADRACE_WORKERS": "1"}
    simulator = simulate("--packages", folder, "--trace", trace, *SERVE, **budget).ready()
    client = simulator.client()
    assert names(client, (*range(8), 0, 0)) == ["m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m0", "m0"]
    unloaded = did(simulator, r"model\.unloaded")
    assert unloaded == [f"m{index}" for index in range(len(unloaded))] != []
    assert set(did(simulator, r"load\.refused")) <= {"m4", "m5", "m6", "m7", "m0"}
    assert len(did(simulator, r"model\.downloaded")) == 8
    assert len(did(simulator, r"model\.loaded")) == 9
    records = [json.loads(line) for line in trace.read_text().splitlines()]
    assert [each["found"] for each in records] == ["miss"] * 9 + ["hit"]
    assert {(each["status"], each["original_status"]) for each in records} == {(200, 200)}
    assert all(each["total_ms"] >= each["wait_ms"] + each["model_ms"] > 0 for each in records)


def test_what_takes_too_long(simulate, tmp_path):
    """A load goes on when its request has been answered; an invocation does not count as one that was."""
    folder = models(tmp_path / "s3", 1, gate=tmp_path)
    simulator = simulate("--packages", folder, "--invocation-timeout", "1s", *SERVE).ready()
    client = simulator.client()
    answer = refusal(client, "m0.tar.gz")
    assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == ("ModelNotReadyException", 429)
    (tmp_path / "loaded").touch()
    simulator.wait_for(r"simulate model\.loaded")
    assert names(client, [0]) == ["m0"]
    answer = refusal(client, "m0.tar.gz", b'"wait"')
    (tmp_path / "answered").touch()
    assert (answer["Error"]["Code"], answer["OriginalStatusCode"]) == ("ModelError", 0)
    assert "no answer came within 1 s" in answer["OriginalMessage"]


def test_a_killed_container_is_started_again(simulate, tmp_path):
    simulator = simulate("--packages", models(tmp_path / "s3", 2), *QUICK, *SERVE).ready()
    client = simulator.client()
    assert names(client, (0, 1)) == ["m0", "m1"]
    simulator.container().kill()
    simulator.wait_for(r"container\.out_of_service .*SIGKILL")
    simulator.wait_for(r"container\.in_service", 2)
    assert names(client, (1,)) == ["m1"]
    assert did(simulator, r"model\.downloaded") == ["m0", "m1"]  # the disk has outlived the container
    assert did(simulator, r"model\.loaded") == ["m0", "m1", "m1"]


def test_a_container_that_does_not_answer_pings_is_started_again(simulate, tmp_path):
    simulator = simulate("--packages", models(tmp_path / "s3", 1), *QUICK, *SERVE).ready()
    for process in simulator.container().children(recursive=True):
        if "frontend" in " ".join(process.cmdline()):
            process.suspend()
    simulator.wait_for(r"container\.out_of_service .*2 pings in a row failed, the last with no answer")
    simulator.wait_for(r"container\.in_service", 2)
    assert names(simulator.client(), [0]) == ["m0"]


@pytest.mark.parametrize(
    ("command", "limit", "says"),
    [
        ("raise SystemExit(3)", "60s", "it ended with status 3 before its /ping was answered 200"),
        ("import time; time.sleep(60)", "500ms", "its /ping was not answered 200 within 0.5 s"),
    ],
)
def test_a_container_that_never_comes_into_service(tmp_path, command, limit, says):
    simulator = Simulator("--packages", tmp_path, "--start-timeout", limit, "--", sys.executable, "-c", command)
    assert simulator.ended() == 1
    assert f"never came into service: {says}" in simulator.log


def test_an_endpoint_for_one_model(simulate, tmp_path):
    pack(tmp_path, "model.tar.gz", {"model.py": MODEL, "spec": "0 only -"})
    simulator = simulate("--package", tmp_path / "model.tar.gz", *SERVE).ready()
    client = simulator.client()
    assert as_json(invoke(client)) == {"name": "only"}
    answer = refusal(client, "m0.tar.gz")
    assert "is not a multi-model endpoint" in answer["Error"]["Message"]


def test_a_container_that_somebody_else_runs(simulate, serve, tmp_path):
    """When it comes back, it is asked what it has."""
    environment = {"SAGEMAKER_MULTI_MODEL": "true", "HEADRACE_HOST": "127.0.0.1"}
    server = serve(**environment)
    url = f"http://127.0.0.1:{server.port}"
    simulator = simulate("--packages", models(tmp_path / "s3", 1), "--url", url, *QUICK).ready()
    client = simulator.client()
    assert names(client, [0]) == ["m0"]
    server.stop()
    simulator.wait_for(r"container\.out_of_service")
    assert refusal(client, "m0.tar.gz")["Error"]["Code"] == "ServiceUnavailable"
    serve(**environment, HEADRACE_PORT=str(server.port), HEADRACE_MANAGEMENT_PORT=str(server.port))
    simulator.wait_for(r"container\.in_service", 2)
    assert names(client, [0]) == ["m0"]
    assert did(simulator, r"model\.lost") == ["m0"]


def test_a_killed_simulator_takes_its_container_along(tmp_path):
    simulator = Simulator("--packages", tmp_path, "--", sys.executable, "-c", "import time; time.sleep(600)")
    simulator.wait_for(r"container\.started")
    container = simulator.container()
    wait_until(lambda: "time.sleep" in container.cmdline()[-1], "it never became its command")
    simulator.process.kill()
    wait_until(lambda: not is_alive(container), "the container runs on")
    simulator.ended()
