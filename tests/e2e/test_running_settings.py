"""Settings that change while the server runs: by the API, by command, at SIGHUP; and nobody's request is lost by it."""

import json
import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest
from conftest import ECHO, GATED, in_background, wait_until, write_model

BATCHES = """
import json
from headrace import Model
class Batches(Model):
    max_batch_delay_ms = 20
    def handle(self, requests):
        return [{"together": len(requests)} for _ in requests]
"""
HANDLER = """
import logging
def handle(data, context):
    if data is None:
        return None
    logging.getLogger("mine").debug("whispered")
    return [str(context.system_properties["batch_size"]) for _ in data]
"""
SLOW = """
import time
from headrace import Model
class Slow(Model):
    max_batch_size = 1
    def handle(self, requests):
        time.sleep(0.02)
        return [b"done" for _ in requests]
"""


ONCE = """
from headrace import Model
class Once(Model):
    def load(self, directory):
        mark = directory / "loaded"
        if mark.exists():
            raise RuntimeError("only once")
        mark.touch()
    def handle(self, requests):
        return [b"here" for _ in requests]
"""
HEAVY = """
import numpy as np
from headrace import Model
class Heavy(Model):
    def load(self, directory):
        self.weights = np.ones(40 << 17)
    def handle(self, requests):
        return [b"here" for _ in requests]
"""


class Traffic:
    """Requests without a pause, on connections of their own, until the block is left; then none may have failed."""

    def __init__(self, server, path, threads=4):
        self.server, self.path = server, path
        self.answers = []
        self.is_over = threading.Event()
        self.threads = [threading.Thread(target=self.ask) for _ in range(threads)]

    def ask(self):
        while not self.is_over.is_set():
            answer = self.server.post(self.path, b"x", content_type="application/octet-stream")
            self.answers.append((answer.status, answer.body))

    def more(self, count):
        """Waits until so many more were answered."""
        wanted = len(self.answers) + count
        wait_until(lambda: len(self.answers) >= wanted, "no answers come")

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.more(10)
        return self

    def __exit__(self, *_):
        self.is_over.set()
        for thread in self.threads:
            thread.join()
        assert {status for status, _ in self.answers} == {200}, self.answers


def change(server, **values):
    answer = server.manage("PUT", "/settings", values)
    assert answer.status == 200, answer.body
    return answer.json()["changed"]


def value(server, name):
    return server.manage("GET", "/settings").json()["settings"][name]["value"]


@pytest.fixture(scope="module")
def server(serve_module, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    models = [write_model(folder / "echo", ECHO), write_model(folder / "batches", BATCHES)]
    (folder / "handler").mkdir()
    (folder / "handler" / "service.py").write_text(HANDLER)
    server = serve_module(
        *models, "--model-store", str(folder), HEADRACE_WORKERS="1", HEADRACE_IDLE_TIMEOUT="1h", HEADRACE_PIN="off"
    )
    given = {"model_name": "handler", "url": "handler", "handler": "service.py:handle", "batch_size": 1}
    assert server.manage("POST", "/models", given).status == 200
    return server


def test_every_setting_is_told_with_its_origin_and_whether_it_can_change(server):
    settings = server.manage("GET", "/settings").json()["settings"]
    assert settings["idle_timeout"] | {"meaning": ""} == {
        "value": "1h",
        "from": "HEADRACE_IDLE_TIMEOUT",
        "changeable": True,
        "variable": "HEADRACE_IDLE_TIMEOUT",
        "meaning": "",
    }
    assert (settings["arena"]["from"], settings["arena"]["changeable"]) == ("default", False)


def test_all_is_checked_before_anything_changes(server):
    asked = {"queue": 7, "arena": "1GiB", "qeue": 1, "retries": "many", "HEADRACE_QUEUE": 8, "timeout": [1]}
    answer = server.manage("PUT", "/settings", asked)
    assert answer.status == 400
    problems = answer.json()["message"].splitlines()
    assert len(problems) == 5, problems
    for word in (
        "arena cannot change while the server runs",
        "'qeue' is no setting; did you mean queue?",
        "retries='many' must be a whole number",
        "queue is given twice, as queue and as HEADRACE_QUEUE",
        "timeout must be a text or a number",
    ):
        assert any(word in problem for problem in problems), (word, problems)
    assert value(server, "queue") == "1000"
    for body in ({}, []):
        assert server.manage("PUT", "/settings", body).status == 400
    assert server.request("PUT", "/settings", b"{", management=True).status == 400
    assert server.manage("POST", "/settings", {"queue": 1}).status == 405
    assert server.request("GET", "/settings").status == 404  # not on the inference port


def test_a_change_is_answered_and_logged_with_what_was_and_what_is(server):
    assert change(server, timeout="45s", memory_budget="1Gi", retries=2) == {
        "timeout": {"old": "60s", "new": "45s"},
        "memory_budget": {"old": value_of_budget(server), "new": "1GiB"},
        "retries": {"old": "1", "new": "2"},
    }
    wait_until(
        lambda: server.find(r'INFO supervisor settings\.changed name=timeout old=60s new=45s by="PUT /settings"'),
        "the change is not logged",
    )
    assert server.metric("headrace_memory_budget_bytes") == 1 << 30
    assert change(server, timeout=45) == {}


def value_of_budget(server):
    """The budget of the start, out of the log."""
    return server.find(r'memory_budget_bytes="?(\w+)').group(1)


def test_batches_follow_defaults_and_the_model_s_own_settings(server):
    def together():
        asks = [in_background(lambda: server.post("/models/batches/invoke", b"x").json()["together"]) for _ in range(8)]
        return max(ask() for ask in asks)

    wait_until(lambda: together() > 1, "no batch forms")
    change(server, max_batch_size=1)
    assert together() == 1
    assert server.manage("GET", "/models/batches").json()["batchSize"] == 1
    assert server.manage("PUT", "/models/batches?batch_size=8&max_batch_delay=25").status == 200
    described = server.manage("GET", "/models/batches").json()
    assert (described["batchSize"], described["maxBatchDelay"]) == (8, 25)
    wait_until(lambda: together() > 1, "no batch forms")
    change(server, max_batch_size=32)
    assert server.manage("GET", "/models/batches").json()["batchSize"] == 8  # what was asked for stays
    assert server.manage("PUT", "/models/batches?batch_size=none").status == 400
    assert server.manage("PUT", "/models/nobody?batch_size=2").status == 404


def test_a_handler_sees_its_new_batch_size_and_its_loggers_follow_the_level(server):
    assert server.post("/predictions/handler", b"{}").body == b"1"
    assert not server.find("whispered")
    assert server.manage("PUT", "/models/handler?batch_size=3").status == 200
    assert change(server, log_level="DEBUG")["log_level"] == {"old": "INFO", "new": "DEBUG"}
    assert server.post("/predictions/handler", b"{}").body == b"3"
    wait_until(lambda: server.find("whispered"), "the model's logger keeps its level")
    change(server, log_level="info")


def test_the_access_log_comes_and_goes(server):
    def lines():
        return [line for line in server.lines if " access " in line and "path=/models/echo" in line]

    for _ in range(2):
        assert lines() == []
        change(server, access_log="on")
        assert server.post("/models/echo/invoke", b"x").status == 200
        wait_until(lines, "no line")
        change(server, access_log="off")
        assert server.post("/models/echo/invoke", b"x").status == 200
        assert len(lines()) == 1
        server.lines[:] = [line for line in server.lines if " access " not in line]


def test_time_outs_queues_and_connections_hold_for_requests_that_come(serve, model_dir, tmp_path):
    server = serve(model_dir("gated", GATED), HEADRACE_WORKERS="1")
    first = in_background(lambda: server.post("/models/gated/invoke", b"").status)
    wait_until((tmp_path / "gated" / "begun").exists, "the first request does not run")
    answer = server.manage("PUT", "/settings", {"timeout": "50ms", "idle_timeout": "1s"}).json()
    assert answer.get("workers_that_follow") == [0], (answer, server.log)  # it computes
    assert server.post("/models/gated/invoke", b"").status == 504
    change(server, queue=1)
    assert server.post("/models/gated/invoke", b"").status == 503
    assert server.connect().recv(1024) == b""  # idle for longer than it may be
    change(server, max_connections=1)  # the first request has one
    wait_until(lambda: server.connect().recv(1024).startswith(b"HTTP/1.1 503"), "a further connection is taken")
    (tmp_path / "gated" / "go").touch()
    assert first() == 200  # it came before, so it had the old time, and its worker was not taken for stuck
    assert not server.find(r"worker\.(stuck|lost)")


def test_a_model_s_shorter_time_out_takes_no_worker_from_a_request_that_came_before(serve, model_dir, tmp_path):
    server = serve(model_dir("gated", GATED), HEADRACE_WORKERS="1")
    first = in_background(lambda: server.post("/models/gated/invoke", b"").status)
    wait_until((tmp_path / "gated" / "begun").exists, "the first request does not run")
    assert server.manage("PUT", "/models/gated", {"response_timeout": 1}).status == 200
    for _ in range(2):  # by the end of the second the watchdog has looked again and again
        assert server.post("/models/gated/invoke", b"").status == 504
    (tmp_path / "gated" / "go").touch()
    assert first() == 200
    assert not server.find(r"worker\.(stuck|lost)")


def test_the_number_of_workers_changes_under_traffic_and_no_request_fails(serve, tmp_path):
    folder = tmp_path / "store"
    models = [write_model(folder / "slow", SLOW), write_model(folder / "echo", ECHO)]
    server = serve(*models, "--model-store", str(folder), HEADRACE_WORKERS="1")
    assert server.manage("POST", "/models", {"model_name": "late", "url": "echo"}).status == 200
    before = server.held()
    with Traffic(server, "/models/slow/invoke") as slow, Traffic(server, "/models/late/invoke") as late:
        assert change(server, workers=3) == {"workers": {"old": "1", "new": "3"}}
        assert len(server.named("worker")) == 3
        counts = {"up": 3, "wanted": 3}
        wait_until(lambda: server.request("GET", "/health/ready").json()["workers"] == counts, "not told of")
        described = server.manage("GET", "/models/slow").json()
        assert [worker["status"] for worker in described["workers"]] == ["READY"] * 3  # a model of the start
        slow.more(20)
        change(server, workers=2)
        slow.more(20)
        # What only the last worker has goes on elsewhere.
        change(server, workers=1)
        assert len(server.named("worker")) == 1
        slow.more(10)
        late.more(10)
    assert server.manage("GET", "/models/slow").json()["minWorkers"] == 1
    assert not server.find(r"worker\.lost")
    server.check_holds_no_more_than(before)


def test_a_model_that_only_the_leaving_worker_has_is_loaded_elsewhere_first(serve, tmp_path):
    write_model(tmp_path / "echo", ECHO)
    server = serve("--model-store", str(tmp_path), HEADRACE_WORKERS="2", HEADRACE_REPLICA_IDLE="1h")
    for name in ("a", "b"):  # one on each worker
        assert server.manage("POST", "/models", {"model_name": name, "url": "echo", "initial_workers": 1}).status == 200
    assert server.manage("GET", "/models/b").json()["workers"][0]["id"] == "1"
    with Traffic(server, "/models/b/invoke"):
        change(server, workers=1)
    assert server.manage("GET", "/models/b").json()["workers"][0]["id"] == "0"
    assert server.manage("PUT", "/settings", {"workers": 0}).status == 400


def test_a_worker_whose_model_finds_no_other_place_stays(serve, tmp_path):
    write_model(tmp_path / "echo", ECHO)
    write_model(tmp_path / "once", ONCE)
    server = serve("--model-store", str(tmp_path), HEADRACE_WORKERS="2", HEADRACE_EXTRA_WORKERS="0")
    for name in ("echo", "once"):
        given = {"model_name": name, "url": name, "initial_workers": 1}
        assert server.manage("POST", "/models", given).status == 200
    refused = server.manage("PUT", "/settings", {"workers": 1, "queue": 77})
    assert refused.status == 500
    assert refused.json()["message"].startswith("workers stays 2: model once: load failed: RuntimeError: only once")
    assert (value(server, "workers"), value(server, "queue")) == ("2", "77")
    assert server.post("/models/once/invoke", b"").body == b"here"
    assert server.manage("GET", "/models/once").json()["workers"][0] | {"startTime": "", "memoryUsage": 0} == {
        "id": "1",
        "startTime": "",
        "status": "READY",
        "gpu": False,
        "memoryUsage": 0,
    }
    given = {"model_name": "later", "url": "echo", "initial_workers": 2}
    assert server.manage("POST", "/models", given).status == 200  # and it gets models as before
    assert len(server.manage("GET", "/models/later").json()["workers"]) == 2


IN_PLACE = {"HEADRACE_WORKERS": "1", "HEADRACE_EXTRA_WORKERS": "0"}


def test_a_lower_budget_evicts_what_is_idle(serve, tmp_path):
    write_model(tmp_path / "heavy", HEAVY)
    server = serve("--model-store", str(tmp_path), HEADRACE_MIN_RESIDENT="0", **IN_PLACE)
    for name in ("a", "b"):
        assert server.manage("POST", "/models", {"model_name": name, "url": "heavy"}).status == 200
    used = int(server.metric("headrace_memory_used_bytes"))
    change(server, memory_budget=int((used - (20 << 20)) / 0.97))  # a reserve of 3 % is kept
    wait_until(lambda: server.manage("GET", "/models/a").json()["status"] == "evicted", "nothing is evicted")
    assert server.manage("GET", "/models/b").json()["status"] == "resident"
    assert server.post("/models/a/invoke", b"").body == b"here"
    assert server.manage("GET", "/models/b").json()["status"] == "evicted"
    change(server, memory_budget="100%")
    assert server.post("/models/b/invoke", b"").body == b"here"
    assert server.manage("GET", "/models/a").json()["status"] == "resident"


def test_pins_and_threads_follow_the_number_of_workers(serve, model_dir):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU: nothing is pinned")
    server = serve(model_dir("echo", ECHO), HEADRACE_WORKERS="1", HEADRACE_PIN="auto")
    pinned = [worker.cpu_affinity() for worker in server.named("worker")]
    change(server, workers=len(os.sched_getaffinity(0)))
    assert {tuple(worker.cpu_affinity()) for worker in server.named("worker")} == {tuple(os.sched_getaffinity(0))}
    change(server, workers=1)
    assert [worker.cpu_affinity() for worker in server.named("worker")] == pinned


def test_sighup_applies_what_has_changed_in_the_file_and_nothing_else(serve, model_dir, tmp_path):
    file = tmp_path / "settings"
    file.write_text("# nights\nqueue = 500\nHEADRACE_IDLE_TIMEOUT = 2m\n")
    server = serve(model_dir("echo", ECHO), "--settings", str(file), HEADRACE_WORKERS="1")
    assert (value(server, "queue"), value(server, "idle_timeout")) == ("500", "2m")
    change(server, queue=600)
    file.write_text("queue = 500\nidle_timeout = 90s\narena = 1GiB\n")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.find(r"settings\.read changed=idle_timeout"), "the file is not read again")
    assert (value(server, "queue"), value(server, "idle_timeout")) == ("600", "90s")
    assert server.find(r"WARNING supervisor settings\.needs_restart name=arena value=1GiB")
    assert server.find(r'settings\.changed name=idle_timeout old=2m new=90s by="SIGHUP, \S+settings: idle_timeout"')
    file.write_text("queue = soon\n")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.find(r"ERROR supervisor settings\.kept"), "a broken file is not told of")
    assert value(server, "idle_timeout") == "90s"
    assert server.post("/models/echo/invoke", b"still here").body == b"still here"


def test_whoever_reaches_the_only_port_may_read_but_not_change(serve, model_dir):
    server = serve(model_dir("echo", ECHO), SAGEMAKER_MULTI_MODEL="false", HEADRACE_HOST="127.0.0.1")
    assert server.manage("GET", "/settings").status == 200
    answer = server.manage("PUT", "/settings", {"queue": 1})
    assert answer.status == 403
    assert "HEADRACE_TOKEN_FILE" in answer.json()["message"]


def test_the_command_shows_a_table_and_changes(server):
    def command(*words):
        env = {**os.environ, "HEADRACE_URL": f"http://127.0.0.1:{server.management_port}"}
        words = [sys.executable, "-m", "headrace", "settings", *words]
        return subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False)

    shown = command("--changed")
    assert shown.stdout.splitlines()[0].split() == ["SETTING", "VALUE", "CHANGEABLE", "FROM"]
    assert "idle_timeout" in shown.stdout
    assert "arena" not in shown.stdout
    assert len(json.loads(command("--json").stdout)["settings"]) > 40
    changed = command("queue_total=777", "min-rate=100")
    assert [line.split()[0] for line in changed.stdout.splitlines()] == ["SETTING", "queue_total", "min_rate"]
    assert command("queue_total=777").stdout == "nothing to change\n"
    refused = command("queue_total=none", "arena=1")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 2)
    assert command("queue_total").returncode == 2
    assert value(server, "queue_total") == "777"


def test_a_worker_that_was_born_before_a_change_and_up_after_it_follows_too(server):
    """Its successor has what holds, whenever it is forked."""
    change(server, max_batch_size=5)
    (worker,) = [process for process in server.named("worker") if "worker 0" in " ".join(process.cmdline())]
    worker.kill()
    wait_until(lambda: not psutil.pid_exists(worker.pid), "it lives")
    assert server.post("/models/echo/invoke", b"x").status == 200
    assert server.manage("GET", "/models/echo").json()["batchSize"] == 5
