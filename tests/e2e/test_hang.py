"""A model that never returns: its caller gets an answer at the deadline, the worker is ended, neighbours are served."""

from conftest import wait_until, write_model

STUCK = """
import threading
from headrace import Model
class Stuck(Model):
    def handle(self, requests):
        threading.Event().wait()
"""
FINE = """
from headrace import Model
class Fine(Model):
    def predict(self, x):
        return x
"""


def test_should_end_a_stuck_worker_and_serve_its_neighbours(serve, tmp_path):
    server = serve(write_model(tmp_path / "stuck", STUCK), write_model(tmp_path / "fine", FINE), HEADRACE_TIMEOUT="2s")
    (worker,) = server.named("worker")
    assert server.post("/models/fine/invoke", b"[[1]]").status == 200
    answer = server.post("/models/stuck/invoke", b"{}")
    assert (answer.status, set(answer.json())) == (504, {"code", "type", "message"})
    wait_until(lambda: server.find(r"worker\.stuck .*pid=" + str(worker.pid)), "the watchdog saw nothing")
    wait_until(lambda: server.find("worker.lost .*signal=SIGABRT"), "the worker was not ended")
    wait_until(lambda: server.post("/models/fine/invoke", b"[[1]]").status == 200, "the neighbour is not served")
    wait_until(lambda: "in handle" in server.log, "no traceback says where it hung")
    assert server.metric("headrace_slots_leased") == 0


SLOW = """
import time
from headrace import Model
class Slow(Model):
    def handle(self, requests):
        time.sleep(2)
        return [b"slept" for _ in requests]
"""
DEAF = STUCK.replace(
    "        threading", "        import signal; signal.signal(signal.SIGABRT, signal.SIG_IGN)\n        threading"
)


def test_should_let_a_model_run_for_as_long_as_its_own_time_out_allows(serve, tmp_path):
    write_model(tmp_path / "slow", SLOW)
    server = serve("--model-store", str(tmp_path), HEADRACE_TIMEOUT="1s", HEADRACE_WORKERS="1")
    document = {"url": "slow", "model_name": "slow", "response_timeout": 30}
    assert server.manage("POST", "/models", document).status == 200
    assert server.post("/models/slow/invoke", b"{}").body == b"slept"
    assert not server.find(r"worker\.stuck")


def test_should_end_a_worker_that_is_stuck_for_longer_than_its_model_s_own_time_out_and_deaf(serve, tmp_path):
    write_model(tmp_path / "deaf", DEAF)
    server = serve("--model-store", str(tmp_path), HEADRACE_TIMEOUT="1h", HEADRACE_WORKERS="1")
    document = {"url": "deaf", "model_name": "deaf", "response_timeout": 1}
    assert server.manage("POST", "/models", document).status == 200
    assert server.post("/models/deaf/invoke", b"{}").status == 504
    wait_until(lambda: server.find(r"worker\.lost .*signal=SIGKILL"), "SIGABRT was ignored, and no SIGKILL followed")
    assert server.find(r"model\.killed_worker .*model=deaf")  # it is the model's doing, whoever sent the signal
