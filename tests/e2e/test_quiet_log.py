"""At INFO the log has a line for each change of state, and none for a request or a ping."""

import http.client
import json

import pytest
from conftest import write_model

REQUESTS = 1000
NATIVE = """
import numpy as np
from headrace import Model
class Sum(Model):
    shape = (2,)
    def predict(self, x):
        return x.sum(axis=1)
"""
HANDLER = """
def handle(data, context):
    if data is None:
        return None
    context.metrics.add_time("PredictionTime", 1.5)
    return ["done" for _ in data]
"""
SCRIPT = """
def model_fn(model_dir):
    return "model"
def predict_fn(data, model):
    return data
"""
DIALECTS = {
    "native": ("/models/native/invoke", b"[[1, 2]]"),
    "legacy": ("/native/predict", b"[[1, 2]]"),
    "handler": ("/predictions/handler", b"{}"),
    "script": ("/models/script/invoke", b"[1, 2]"),
    "default": ("/invocations?model_name=native", b"[[1, 2]]"),
}


@pytest.fixture(scope="module")
def server(serve_module, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    write_model(store / "native", NATIVE)
    for name, file, text in (("handler", "service.py", HANDLER), ("script", "code/inference.py", SCRIPT)):
        (store / name / file).parent.mkdir(parents=True)
        (store / name / file).write_text(text)
    server = serve_module("--model-store", str(store), "--models", "native", HEADRACE_WORKERS="1")
    for name, more in (("handler", {"handler": "service.py:handle"}), ("script", {})):
        assert server.manage("POST", "/models", {"model_name": name, "url": name, **more}).status == 200
        server.wait_for_line(f"model.loaded model={name}", 0)  # the log may lag behind the answer
    return server


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_thousand_requests_and_pings_leave_no_line(server, dialect):
    path, body = DIALECTS[dialect]
    before = len(server.lines)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"content-type": "application/json", "x-amzn-sagemaker-target-model": "target"}
    for number in range(REQUESTS):
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        assert (response.status, bool(response.read())) == (200, True)
        if number % 10 == 0:
            connection.request("GET", "/ping")
            assert connection.getresponse().read()
    connection.close()
    assert server.manage("PUT", "/settings", {"queue_total": 20_000 + len(path)}).status == 200  # one change, one line
    server.wait_for_line("settings.changed", before)
    assert len(server.lines) == before + 1, "\n".join(server.lines[before:])


def test_each_change_of_state_is_one_line(server):
    before = len(server.lines)
    assert server.manage("POST", "/models", {"model_name": "again", "url": "native"}).status == 200
    server.wait_for_line("model.loaded", before)
    assert server.manage("DELETE", "/models/again").status == 200
    server.wait_for_line("model.unloaded", before)
    assert len(server.lines) == before + 2, "\n".join(server.lines[before:])
    assert json.loads(server.request("GET", "/ping").body)["status"] == "Healthy"
