"""What models print and log: events with their model and worker, bounded, and never in the models' way."""

import json
import re

import pytest
from conftest import wait_until, write_model

LOUD = """
import logging, os, subprocess, sys
from headrace import Model
class Loud(Model):
    def load(self, directory):
        print("loading here")
    def handle(self, requests):
        for request in requests:
            self.act(request.json())
        return [{"pid": os.getpid()} for _ in requests]
    def act(self, what):
        if what == "say":
            print("first", "second", end="\\n\\n")
            sys.stdout.write("in two ")
            sys.stdout.write("parts\\n")
            sys.stdout.buffer.write("bytes: caf\\u00e9\\n".encode())
            print("trouble\\x1b[31m", file=sys.stderr)
            logging.getLogger("my.logger").warning("lost %d", 3)
        elif what == "native":
            os.write(1, b"from a library\\n")
            subprocess.run(["echo", "from a command"])
        elif what == "flood":
            for i in range(5000):
                print("flood", i)
        elif what == "native flood":
            os.write(2, b"native flood\\n" * 5000)
        elif what == "long":
            print("x" * 100_000)
            logging.getLogger("my.logger").error("y" * 100_000)
        elif what == "fail":
            raise ValueError("on purpose")
        elif what == "die":
            os.write(2, b"free(): invalid pointer\\nlast words")
            os.abort()
"""
HANDLER = """
def handle(data, context):
    if data is not None:
        context.metrics.add_time("PredictionTime", 1.5)
        context.metrics.add_counter("Seen", 1)
    return data and ["done" for _ in data]
"""


@pytest.fixture(scope="module")
def server(serve_module, tmp_path_factory):
    model = write_model(tmp_path_factory.mktemp("models") / "loud", LOUD)
    return serve_module(model, HEADRACE_WORKERS="1", HEADRACE_LOG_FORMAT="json", HEADRACE_PIN="off")


def act(server, what):
    return server.post("/models/loud/invoke", json.dumps(what).encode())


def events(server, **fields):
    """Those of the log that have these fields."""
    found = [json.loads(line) for line in list(server.lines) if line.startswith("{")]
    return [event for event in found if fields.items() <= event.items()]


def event(server, **fields):
    return wait_until(lambda: events(server, **fields), f"no event {fields} in:\n{server.log}")[0]


def test_lines_are_events_with_their_model_and_worker(server):
    at_load = event(server, message="loading here")
    assert (at_load["process"], at_load["model"], at_load["level"]) == ("worker-0", "loud", "INFO")
    assert act(server, "say").status == 200
    for line in ("first second", "in two parts", "bytes: café"):
        assert event(server, event="output", stream="stdout", model="loud", level="INFO", message=line)
    assert event(server, event="output", stream="stderr", model="loud", level="WARNING", message="trouble\x1b[31m")
    logged = event(server, event="log", logger="my.logger")
    assert (logged["model"], logged["level"], logged["message"]) == ("loud", "WARNING", "lost 3")
    assert not events(server, message="")  # an empty line is no event
    assert server.output == []


def test_lines_name_the_model_as_the_platform_s_clients_do(server):
    target = {"X-Amzn-SageMaker-Target-Model": "night shift.tar.gz"}
    assert server.post("/models/loud/invoke", b'"say"', **target).status == 200
    assert event(server, event="output", target_model="night shift.tar.gz", model="loud", message="first second")
    assert event(server, event="log", target_model="night shift.tar.gz", message="lost 3")
    assert server.post("/models/loud/invoke", b'"fail"', **target).status == 500
    assert event(server, event="model.failed", target_model="night shift.tar.gz", model="loud")
    count = len(events(server, target_model="night shift.tar.gz"))
    logged = len(events(server, message="lost 3"))
    assert act(server, "say").status == 200  # nothing carries over
    wait_until(lambda: len(events(server, message="lost 3")) > logged, "not logged")
    assert len(events(server, target_model="night shift.tar.gz")) == count


def test_native_code_and_commands_are_heard_too(server):
    assert act(server, "native").status == 200
    for line in ("from a library", "from a command"):
        assert event(server, event="output", stream="fd", worker=0, message=line)["level"] == "INFO"


@pytest.mark.parametrize(("what", "stream"), [("flood", "stdout"), ("native flood", "fd")])
def test_more_than_the_rate_is_dropped_and_counted(server, what, stream):
    def counted():
        said = [it for it in events(server, event="output", stream=stream) if it["message"].startswith(what)]
        dropped = sum(it["lines"] for it in events(server, event="output.dropped")[before:])
        return len(said) if len(said) + dropped == 5000 else None

    before = len(events(server, event="output.dropped"))
    assert act(server, what).status == 200
    said = wait_until(counted, "lines are lost without being counted")
    assert 0 < said < 2500
    (dropped,) = events(server, event="output.dropped")[before : before + 1]
    assert dropped["level"] == "WARNING"


def test_the_rate_can_be_set_while_the_server_runs(server):
    assert server.manage("PUT", "/settings", {"output_lines": 1_000_000}).status == 200
    count = len(events(server, event="output", stream="stdout"))
    assert act(server, "flood").status == 200
    wait_until(lambda: len(events(server, event="output", stream="stdout")) >= count + 5000, "not all are said")
    assert server.manage("PUT", "/settings", {"output_lines": 100}).status == 200


def test_long_lines_are_cut(server):
    assert act(server, "long").status == 200
    wait_until(lambda: server.find("yyyy"), "not logged")
    for letter in "xy":
        (line,) = [it["message"] for it in events(server) if str(it.get("message")).startswith(letter * 9)]
        assert re.fullmatch(rf"{letter}{{2000}}\.\.\. and 98000 characters more", line)


def test_the_last_words_of_a_worker_that_dies_are_kept(server):
    assert act(server, "die").status in (502, 503, 500)
    assert event(server, event="output", worker=0, message="free(): invalid pointer")
    assert event(server, event="output", worker=0, message="last wordsFatal Python error: Aborted")
    assert events(server, event="worker.lost", signal="SIGABRT")


def test_metrics_that_toolkits_report_at_every_request_are_no_lines_at_info(serve, tmp_path):
    (tmp_path / "handler").mkdir()
    (tmp_path / "handler" / "service.py").write_text(HANDLER)
    server = serve("--model-store", str(tmp_path), HEADRACE_WORKERS="1")
    given = {"model_name": "handler", "url": "handler", "handler": "service.py:handle"}
    assert server.manage("POST", "/models", given).status == 200
    for _ in range(5):
        assert server.post("/predictions/handler", b"{}").status == 200
    assert not server.find("PredictionTime")
    assert server.manage("PUT", "/settings", {"log_level": "DEBUG"}).status == 200
    assert server.post("/predictions/handler", b"{}").status == 200
    wait_until(lambda: server.find("PredictionTime.Milliseconds:1.5"), "not at DEBUG either")


def test_a_log_that_nobody_reads_holds_nobody_up(serve, tmp_path):
    """Its reader stops, as a stuck collector does; requests of a loud model are answered all the same."""
    model = write_model(tmp_path / "loud", LOUD)
    server = serve.begin(model, HEADRACE_WORKERS="1", HEADRACE_LOG_FORMAT="json", HEADRACE_OUTPUT_LINES="1000000")
    server.ready()
    server.pause()
    for _ in range(10):
        assert act(server, "flood").status == 200
    assert act(server, "native flood").status == 200
    assert server.manage("PUT", "/settings", {"queue": 7}).status == 200
    server.go_on()
    assert act(server, "say").status == 200
    assert wait_until(lambda: events(server, event="log.dropped"), "what was dropped is not told")[0]["lines"] > 0
    assert event(server, message="in two parts")
