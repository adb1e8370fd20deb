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
