"""A model that kills its workers is set aside; its neighbours in the same worker are served all the while."""

import time
from pathlib import Path

import pytest
from conftest import ECHO, Serve, wait_until, write_model

# Dies of a request "die", in the way that the file beside it says; with `at_load` there, of being loaded.
DEADLY = """
import ctypes, os, signal
from headrace import Model
class Deadly(Model):
    def load(self, directory):
        if (directory / "at_load").exists():
            os.abort()
        self.way = (directory / "way").read_text()
    def handle(self, requests):
        if any(bytes(request.body) == b"die" for request in requests):
            if self.way == "exit":
                os._exit(0)
            elif self.way == "segfault":
                ctypes.string_at(0)
            elif self.way == "hold the GIL":
                ctypes.PyDLL(None).sleep(600)
        return [b"alive" for _ in requests]
"""


@pytest.mark.parametrize("way", ["exit", "segfault"])
def test_a_model_that_kills_again_and_again_is_set_aside(serve: Serve, tmp_path: Path, way: str) -> None:
    server = serve(
        write_model(tmp_path / "deadly", DEADLY, way=way), write_model(tmp_path / "echo", ECHO), HEADRACE_WORKERS="1"
    )
    first = server.post("/models/deadly/invoke", b"die")  # two workers die of it
    assert first.status == 503
    assert first.headers["x-request-id"]
    assert server.post("/models/deadly/invoke", b"fine").body == b"alive"  # one bad request is no bad model
    second = server.post("/models/deadly/invoke", b"die")  # the third
    assert second.status == 503
    assert "is set aside" in second.json()["message"]
    assert 1 <= int(second.headers["retry-after"]) <= 2
    described = server.manage("GET", "/models/deadly").json()
    assert described["status"] == "quarantined"
    assert "ended 3 workers" in described["reason"]
    turned_away = server.post("/models/deadly/invoke", b"fine")
    assert (turned_away.status, turned_away.json()["type"]) == (503, "ServiceUnavailableException")
    assert server.post("/models/echo/invoke", b"[1]").body == b"[1]"
    assert any("deadly is quarantined" in why for why in server.request("GET", "/health/ready").json()["reasons"])
    wait_until(lambda: server.post("/models/deadly/invoke", b"fine").body == b"alive", "it never came back")
    assert len([line for line in server.lines if "model.quarantined" in line]) == 1
    assert server.manage("GET", "/models/deadly").json()["status"] == "resident"
    assert server.metric("headrace_slots_leased") == 0


def test_a_model_that_kills_while_it_is_brought_back_does_not_keep_its_neighbours_down(
    serve: Serve, tmp_path: Path
) -> None:
    deadly = write_model(tmp_path / "deadly", DEADLY, way="exit")
    server = serve(deadly, write_model(tmp_path / "echo", ECHO), HEADRACE_WORKERS="1")
    (tmp_path / "deadly" / "at_load").touch()
    server.post("/models/deadly/invoke", b"die")
    wait_until(lambda: server.find("model.quarantined .*model=deadly"), "it was not set aside")
    assert server.post("/models/echo/invoke", b"[1]").body == b"[1]"
    (tmp_path / "deadly" / "at_load").unlink()
    wait_until(lambda: server.post("/models/deadly/invoke", b"fine").body == b"alive", "it never came back")


def test_a_model_stuck_in_c_with_the_gil_is_ended_and_its_neighbours_are_served(serve: Serve, tmp_path: Path) -> None:
    names = ["echo", "other"]
    server = serve(
        write_model(tmp_path / "deadly", DEADLY, way="hold the GIL"),
        *(write_model(tmp_path / name, ECHO) for name in names),
        HEADRACE_WORKERS="1",
        HEADRACE_TIMEOUT="1s",
    )
    assert server.post("/models/deadly/invoke", b"die").status == 504
    wait_until(lambda: server.find("worker.lost .*signal=SIGABRT"), "the worker was not ended")
    assert server.find("in handle"), "no traceback says where it hung"
    for name in names:
        wait_until(lambda name=name: server.post(f"/models/{name}/invoke", b"[1]").body == b"[1]", f"{name} is lost")


def test_a_sigkill_from_outside_blames_no_model(serve: Serve, tmp_path: Path) -> None:
    slow = ECHO.replace("        return", "        import time; time.sleep(0.02)\n        return")
    server = serve(write_model(tmp_path / "slow", slow), HEADRACE_WORKERS="1", HEADRACE_RETRIES="10")
    for _ in range(5):
        pid = server.named("headrace: worker 0")[0].pid
        until = time.monotonic() + 0.05
        while time.monotonic() < until:
            assert server.post("/models/slow/invoke", b"[1]").status == 200
        server.named("headrace: worker 0")[0].kill()
        assert server.post("/models/slow/invoke", b"[1]").status == 200
        wait_until(lambda pid=pid: server.find(rf"worker\.lost .*pid={pid} "), "not lost")
    assert not server.find("model.killed_worker")
