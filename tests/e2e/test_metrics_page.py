"""What /metrics tells of requests, models, workers and loads of a real server."""

import os
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from conftest import ECHO, Serve, Server, wait_until
from prometheus_client.parser import text_string_to_metric_families

ModelDir = Callable[[str, str], str]

PAIR = """
import time
from headrace import Model
class Pair(Model):
    max_batch_size = 2
    max_batch_delay_ms = 10000
    def handle(self, requests):
        time.sleep(0.02)
        return [b"ok" for _ in requests]
"""
SLOW = PAIR.replace("max_batch_size = 2", "max_batch_size = 1")
POST_PAIR = b"POST /models/pair/invoke HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\n\r\nhi"


def read(server: Server) -> dict[tuple[str, ...], float]:
    """Value by (name, label values in the order of the labels' names)."""
    page = server.request("GET", "/metrics", management=True)
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {}
    for family in text_string_to_metric_families(page.body.decode()):
        for sample in family.samples:
            key = (sample.name, *(value for _, value in sorted(sample.labels.items())))
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return found


def test_each_request_is_counted_once_with_its_status_its_bytes_and_its_times(
    serve: Serve, model_dir: ModelDir
) -> None:
    server = serve(model_dir("echo", ECHO), model_dir("pair", PAIR), HEADRACE_WORKERS="1", HEADRACE_FRONTENDS="2")
    for _ in range(5):
        assert server.post("/models/echo/invoke", b"12345").status == 200
    assert server.post("/models/none/invoke", b"1").status == 404
    client = server.connect()
    client.sendall(2 * POST_PAIR)
    answers = b""
    while answers.count(b"ok") < 2:
        answers += (more := client.recv(4096))
        assert more, answers
    gone = server.connect()
    gone.sendall(POST_PAIR)
    wait_until(lambda: read(server)["headrace_model_in_flight", "pair"] == 1, "not under way")
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no half close
    gone.close()
    wait_until(lambda: read(server).get(("headrace_requests_total", "pair", "499")) == 1, "not counted as gone")
    found = read(server)
    assert found["headrace_requests_total", "echo", "200"] == 5
    assert found["headrace_requests_total", "pair", "200"] == 2
    assert found["headrace_request_bytes_total", "echo"] == found["headrace_response_bytes_total", "echo"] == 25
    for model, count in (("echo", 5), ("pair", 2)):
        for name in ("request_seconds", "queue_seconds", "compute_seconds", "batch_rows"):
            assert found[f"headrace_{name}_count", model] == count
        phases = found["headrace_queue_seconds_sum", model] + found["headrace_compute_seconds_sum", model]
        assert 0 < phases <= found["headrace_request_seconds_sum", model]
    assert found["headrace_batch_rows_sum", "pair"] == 4
    # Each body once, as it came with its head; each answer into its slot and, if somebody was there, behind its head.
    assert found["headrace_copied_bytes_total", "pair"] == 3 * 2 + 2 * (2 + 2)
    assert found["headrace_compute_seconds_sum", "pair"] >= 2 * 0.02
    assert found["headrace_compute_seconds_bucket", "0.01", "pair"] == 0
    assert not [key for key in found if "none" in key]  # no client makes up labels


def test_the_busiest_models_are_named_and_no_count_is_lost_when_they_change(serve: Serve, model_dir: ModelDir) -> None:
    models = [model_dir(f"m{i}", ECHO) for i in range(4)]
    server = serve(*models, HEADRACE_WORKERS="1", HEADRACE_METRICS_MODELS="2")

    def answered() -> dict[str, float]:
        return {key[1]: value for key, value in read(server).items() if key[0] == "headrace_requests_total"}

    def send(name: str, count: int) -> None:
        for _ in range(count):
            assert server.post(f"/models/{name}/invoke", b"1").status == 200

    assert {key[1] for key in read(server) if key[0] == "headrace_request_seconds_count"} == {"m0", "m1", "other"}
    send("m0", 4)
    send("m3", 3)
    assert answered() == {"m0": 4, "other": 3}  # and from here on m3 has a name, since m1 has had no request
    send("m3", 2)
    send("m1", 1)
    assert answered() == {"m0": 4, "m3": 2, "other": 4}
    assert len({key[1] for key in read(server) if key[0] == "headrace_model_replicas"}) == 3


def test_loads_restarts_and_busy_time_are_told(serve: Serve, model_dir: ModelDir, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.py").write_text("import nothing_like_it")
    server = serve(model_dir("slow", SLOW), "--model-store", str(tmp_path), HEADRACE_WORKERS="1")
    assert server.manage("POST", "/models", {"url": "broken", "model_name": "broken"}).status == 500
    found = read(server)
    assert (found["headrace_loads_total", "loaded"], found["headrace_loads_total", "failed"]) == (1, 1)
    assert found["headrace_load_seconds_count",] == 1
    assert found["headrace_model_replicas", "slow"] == 1
    assert found["headrace_model_memory_bytes", "slow"] > 0
    assert ("headrace_model_replicas", "broken") not in found
    before = found["headrace_worker_busy_seconds_total", "0"]
    for _ in range(3):
        assert server.post("/models/slow/invoke", b"1").status == 200
    assert read(server)["headrace_worker_busy_seconds_total", "0"] - before >= 3 * 0.02
    assert read(server)["headrace_worker_heartbeat_age_seconds", "0"] < 60
    worker = server.named("headrace: worker")[0]
    os.kill(worker.pid, signal.SIGKILL)
    wait_until(lambda: read(server).get(("headrace_worker_restarts_total", "SIGKILL")) == 1, "no restart counted")
    wait_until(lambda: read(server).get(("headrace_worker_requests_total", "0")) is not None, "no successor")


def test_a_page_about_many_models_stays_small(serve: Serve, tmp_path: Path) -> None:
    """As many series with sixty models as with four, where three may be named."""
    (tmp_path / "echo").mkdir()
    (tmp_path / "echo" / "model.py").write_text(ECHO)
    server = serve("--model-store", str(tmp_path), HEADRACE_WORKERS="1", HEADRACE_METRICS_MODELS="3")

    def series() -> int:
        return sum(1 for key in read(server) if any(label[0] == "m" or label == "other" for label in key[1:]))

    for i in range(4):
        assert server.manage("POST", "/models", {"url": "echo", "model_name": f"m{i}"}).status == 200
    few = series()
    for i in range(4, 60):
        assert server.manage("POST", "/models", {"url": "echo", "model_name": f"m{i}"}).status == 200
    assert series() == few
