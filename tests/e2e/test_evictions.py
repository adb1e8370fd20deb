"""What an eviction meets: an unload, a request, a replica that took more than it should, a quarantine."""

import threading

import pytest
from conftest import Serve, Server, in_background, wait_until, write_model

MIB = 1 << 20
# Weights, of which the size of the files says nothing. Where `stays` lies beside it, its unload waits for `gone`.
WEIGHTS = """
import os, time
import numpy as np
from headrace import Model
class Weights(Model):
    max_batch_size = 1
    def load(self, directory):
        self.directory = directory
        with (directory / "loads").open("a") as file:
            file.write("x")
        sizes = [int(word) for word in (directory / "mib").read_text().split()]
        self.weights = np.ones(sizes[min(len((directory / "loads").read_text()), len(sizes)) - 1] << 17)
    def handle(self, requests):
        if bytes(requests[0].body) == b"die":
            os._exit(1)
        if bytes(requests[0].body) == b"wait":
            time.sleep(0.02)
        return [os.getpid() for _ in requests]
    def unload(self):
        if (self.directory / "stays").exists():
            (self.directory / "leaving").touch()
            while not (self.directory / "gone").exists():
                time.sleep(0.005)
"""
SETTINGS = {
    "HEADRACE_MIN_RESIDENT": "0",
    "HEADRACE_WORKERS": "1",
    "HEADRACE_ARENA": "32MiB",
    "HEADRACE_MEMORY_BUDGET": "320MiB",
    "HEADRACE_EXTRA_WORKERS": "0",
}


@pytest.fixture
def start(serve: Serve, tmp_path):
    """start(MIB of m0, of m1, ...) -> a server that has m0, whose budget leaves some 250 MiB to models."""

    def run(*sizes: str, **environment: str) -> Server:
        for i, size in enumerate(sizes):
            write_model(tmp_path / f"m{i}", WEIGHTS, mib=size)
        return serve("--model-store", str(tmp_path), "--models", "m0", **{**SETTINGS, **environment})

    return run


def load(server: Server, path) -> int:
    return server.manage("POST", "/models", {"model_name": path.name, "url": str(path)}).status


def status(server: Server, name: str) -> str:
    return server.manage("GET", f"/models/{name}").json()["status"]


def test_an_unload_waits_for_the_eviction_of_its_model(start, tmp_path):
    server = start("120", "200")
    (tmp_path / "m0" / "stays").touch()
    loaded = in_background(lambda: load(server, tmp_path / "m1"))
    wait_until((tmp_path / "m0" / "leaving").exists, "m0 is not evicted")
    unloaded = in_background(lambda: server.manage("DELETE", "/models/m0").status)
    assert {status(server, "m0") for _ in range(50)} == {"evicted"}, "the unload has begun beside the eviction"
    (tmp_path / "m0" / "gone").touch()
    assert (unloaded(), loaded()) == (200, 200)
    evicted, gone = (server.log.index(f"model.{event} model=m0") for event in ("evicted", "unloaded"))
    assert evicted < gone
    assert server.post("/models/m0/invoke", b"{}").status == 404
    assert server.post("/models/m1/invoke", b"{}").status == 200
    assert server.metric("headrace_memory_charged_bytes") < 210 * MIB


def test_a_request_that_comes_during_the_eviction_of_its_model_has_it_loaded_again(start, tmp_path):
    server = start("120", "200")
    (tmp_path / "m0" / "stays").touch()
    with (tmp_path / "m1" / "weights.bin").open("wb") as file:
        file.truncate(200 * MIB)  # so that the size of the files tells that of the model
    loaded = in_background(lambda: load(server, tmp_path / "m1"))
    wait_until((tmp_path / "m0" / "leaving").exists, "m0 is not evicted")
    asked = in_background(lambda: server.post("/models/m0/invoke", b"{}").status)
    (tmp_path / "m0" / "stays").unlink()
    (tmp_path / "m0" / "gone").touch()
    assert (loaded(), asked()) == (200, 200)
    assert (status(server, "m0"), status(server, "m1")) == ("resident", "evicted")


def test_a_replica_that_load_asked_for_evicts_nobody_whatever_it_takes(start, tmp_path):
    server = start("30", "20 200", "60", HEADRACE_WORKERS="2", HEADRACE_WORKERS_PER_MODEL="1")
    (tmp_path / "m1" / "headrace.toml").write_text("replicas = [1, 2]\n")
    for name in ("m1", "m2"):
        assert load(server, tmp_path / name) == 200
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            answers.append(server.post("/models/m1/invoke", b"wait").status)

    answers: list[int] = []
    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: server.find(r"model\.refused model=m1 .*no further replica"), "it was not given up")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(answers) == {200}
    assert [status(server, name) for name in ("m0", "m1", "m2")] == ["resident"] * 3
    assert server.metric("headrace_evictions_total") == 0
    assert len(server.manage("GET", "/models/m1").json()["workers"]) == 1
    assert server.metric("headrace_memory_reserved_bytes") == 0


def die_until_quarantined(server: Server, name: str) -> None:
    while status(server, name) != "quarantined":
        assert server.post(f"/models/{name}/invoke", b"die").status == 503


def test_a_model_that_was_set_aside_is_loaded_again_beside_others_that_took_its_room(start, tmp_path):
    server = start("120", "120", "120")
    die_until_quarantined(server, "m0")
    for name in ("m1", "m2"):  # on the worker that was born since, where m0 is not
        assert load(server, tmp_path / name) == 200
        assert server.post(f"/models/{name}/invoke", b"{}").status == 200
    wait_until(lambda: server.post("/models/m0/invoke", b"{}").status == 200, "it never came back")
    wait_until(lambda: server.metric("headrace_memory_used_bytes") <= 320 * MIB, "the budget stays exceeded")
    assert all(server.post(f"/models/m{i}/invoke", b"{}").status == 200 for i in (0, 1, 2))
    assert server.metric("headrace_memory_reserved_bytes") == 0


def test_a_model_that_was_set_aside_can_be_unloaded(start, tmp_path):
    server = start("20", "20")
    die_until_quarantined(server, "m0")
    assert server.manage("DELETE", "/models/m0").status == 200
    assert server.post("/models/m0/invoke", b"{}").status == 404
    assert load(server, tmp_path / "m1") == 200
    wait_until(lambda: server.find(r"model\.released model=m0"), "its pause never ends")
    assert server.post("/models/m1/invoke", b"{}").status == 200
    assert server.manage("GET", "/models/m0").status == 404


def test_a_worker_that_is_born_while_a_model_is_set_aside_has_it_afterwards(start, tmp_path):
    server = start("20", "20")
    assert load(server, tmp_path / "m1") == 200
    die_until_quarantined(server, "m0")
    (worker,) = wait_until(lambda: server.named("headrace: worker"), "no worker is born")
    worker.kill()
    wait_until(lambda: server.post("/models/m1/invoke", b"{}").status == 200, "m1 does not come back")
    wait_until(lambda: server.post("/models/m0/invoke", b"{}").status == 200, "m0 does not come back")
    assert status(server, "m0") == "resident"
