"""Replicas that follow load: one more while requests wait, one fewer when it is not needed, and no failed request."""

import os
import threading

import pytest
from conftest import ECHO, Server, wait_until, write_model

# Slow without using a CPU, so that a second replica helps on any machine.
SLOW = """
import os, time
from headrace import Model
class Slow(Model):
    max_batch_size = 1
    def handle(self, requests):
        time.sleep(0.02)
        return [os.getpid() for _ in requests]
"""


class Load:
    """Clients that ask again and again until `end`, which gives all that was answered."""

    def __init__(self, server: Server, path: str, clients: int) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(server, path)) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self, server: Server, path: str) -> None:
        while not self._stop.is_set():
            answer = server.post(path, b"{}")
            self.answers.append((answer.status, answer.body))

    def end(self) -> list[tuple[int, bytes]]:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.answers


def replicas(server: Server) -> int:
    return len(server.manage("GET", "/models/slow").json()["workers"])


def register(server: Server, path: os.PathLike[str]) -> None:
    answer = server.manage("POST", "/models", {"model_name": "slow", "url": str(path)})
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("toml", ["", 'isolation = "process"\nreplicas = [1, 2]\n'], ids=["shared", "process"])
def test_should_follow_load_up_and_down(serve, tmp_path, toml):
    write_model(tmp_path / "echo", ECHO)
    write_model(tmp_path / "slow", SLOW, **{"headrace.toml": toml})
    store = ("--model-store", str(tmp_path), "--models", "echo")
    server = serve(*store, HEADRACE_WORKERS="2", HEADRACE_REPLICA_IDLE="1s")
    register(server, tmp_path / "slow")
    described = server.manage("GET", "/models/slow").json()
    assert (described["minWorkers"], described["maxWorkers"], replicas(server)) == (1, 2, 1)
    load = Load(server, "/models/slow/invoke", clients=4)
    try:
        wait_until(lambda: server.find("model.replica_added model=slow"), "no replica came")
        count = len(load.answers)
        wait_until(lambda: len(load.answers) > count + 20, "no answers")
        assert replicas(server) == 2
    finally:
        answers = load.end()
    assert {status for status, _ in answers} == {200}
    assert len({body for _, body in answers[-20:]}) == 2  # both are asked
    assert server.find(r'model\.replica_added .*reason="\d requests under way at 1 replica,')
    wait_until(lambda: replicas(server) == 1, "no replica went")
    assert server.metric("headrace_replica_changes_total") == 2
    assert server.find(r'model\.replica_removed .*reason="1 would have done for 1 s"')
    assert server.metric("headrace_memory_reserved_bytes") == 0
    assert server.manage("DELETE", "/models/slow").status == 200


def test_should_keep_to_a_number_that_was_asked_for_and_to_a_class_s_own(serve, tmp_path):
    write_model(tmp_path / "slow", SLOW.replace("max_batch_size = 1", "replicas = 2"))
    server = serve("--model-store", str(tmp_path), HEADRACE_WORKERS="2")
    register(server, tmp_path / "slow")
    described = server.manage("GET", "/models/slow").json()
    assert (described["minWorkers"], described["maxWorkers"], len(described["workers"])) == (2, 2, 2)
    assert server.manage("PUT", "/models/slow?min_worker=1&max_worker=2&synchronous=true").status == 200
    described = server.manage("GET", "/models/slow").json()
    assert (described["minWorkers"], described["maxWorkers"], len(described["workers"])) == (1, 2, 2)
    assert server.manage("PUT", "/models/slow?min_worker=1&synchronous=true").status == 200
    assert replicas(server) == 1
