"""Models by API, as SageMaker and Multi Model Server have it: load, list, describe, unload, invoke."""

import json

import pytest
from conftest import Server, wait_until, write_model

CONSTANT = """
from headrace import Model
class Constant(Model):
    def load(self, directory):
        self.value = int((directory / "value").read_text())
    def handle(self, requests):
        return [self.value for _ in requests]
"""


@pytest.fixture
def store(tmp_path):
    for i in range(3):
        write_model(tmp_path / f"m{i}", CONSTANT, value=str(i))
    write_model(tmp_path / "broken", "import nothing_of_the_sort\n")
    write_model(tmp_path / "raising", CONSTANT, value="no number")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.fixture
def multi(serve, store) -> Server:
    """One port, models by absolute path: SageMaker's multi-model mode."""
    return serve(SAGEMAKER_MULTI_MODEL="true")


def load(server: Server, name: str, path) -> int:
    return server.manage("POST", "/models", {"model_name": name, "url": str(path)}).status


def test_should_load_list_describe_invoke_and_unload(multi, store):
    assert multi.port == multi.management_port
    assert multi.request("GET", "/ping").status == 200
    assert multi.manage("GET", "/models").json() == {"models": []}
    for i in range(3):
        assert load(multi, f"name{i}", store / f"m{i}") == 200
        assert multi.post(f"/models/name{i}/invoke", b"{}").json() == i
    assert load(multi, "name1", store / "m1") == 409
    described = multi.manage("GET", "/models/name1").json()
    assert (described["modelName"], described["modelUrl"]) == ("name1", str(store / "m1"))
    page = multi.manage("GET", "/models?limit=2").json()
    assert [model["modelName"] for model in page["models"]] == ["name0", "name1"]
    rest = multi.manage("GET", f"/models?limit=2&next_page_token={page['nextPageToken']}").json()
    assert [model["modelName"] for model in rest["models"]] == ["name2"]
    assert "nextPageToken" not in rest
    assert multi.manage("DELETE", "/models/name1").status == 200
    assert multi.manage("DELETE", "/models/name1").status == 404
    assert multi.manage("GET", "/models/name1").status == 404
    assert multi.post("/models/name1/invoke", b"{}").status == 404
    assert multi.post("/models/name2/invoke", b"{}").json() == 2
    assert load(multi, "name1", store / "m0") == 200
    assert multi.post("/models/name1/invoke", b"{}").json() == 0


def test_should_let_the_url_decide_and_not_the_header(multi, store):
    load(multi, "a", store / "m0")
    load(multi, "b", store / "m1")
    answer = multi.post("/models/a/invoke", b"{}", X_Amzn_SageMaker_Target_Model="b")
    assert answer.json() == 0


@pytest.mark.parametrize(
    ("name", "path", "status", "word"),
    [
        ("x", "broken", 500, "nothing_of_the_sort"),
        ("x", "raising", 500, "invalid literal"),
        ("x", "empty", 400, "model.py"),
        ("x", "absent", 404, "absent"),
        ("x", "../etc", 404, ""),
        ("bad name", "m0", 400, "name"),
        ("..", "m0", 400, "name"),
        ("x" * 256, "m0", 400, "name"),
    ],
)
def test_should_say_why_a_load_failed_and_leave_nothing_behind(multi, store, name, path, status, word):
    answer = multi.manage("POST", "/models", {"model_name": name, "url": str(store) + "/" + path})
    assert answer.status == status, answer.body
    document = answer.json()
    assert set(document) == {"code", "type", "message"}
    assert word in document["message"]
    assert multi.manage("GET", "/models").json() == {"models": []}
    assert load(multi, "x", store / "m0") == 200


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"model_name": "x"}', b'"x"'])
def test_should_refuse_a_load_that_says_nothing(multi, body):
    answer = multi.request("POST", "/models", body, content_type="application/json")
    assert answer.status == 400
    assert set(answer.json()) == {"code", "type", "message"}


def test_should_answer_404_for_models_on_the_inference_port_of_two(serve, model_dir):
    server = serve(model_dir("m", "from headrace import Model\nclass M(Model):\n    def predict(self, x): return x\n"))
    assert server.port != server.management_port
    assert server.request("GET", "/models").status == 404
    assert server.request("GET", "/models", management=True).status == 200
    assert server.request("GET", "/ping", management=True).status == 404
    assert server.post("/invocations", b"[[1]]").json() == {"predictions": [[1]]}


def test_should_finish_what_is_under_way_before_an_unload(multi, tmp_path):
    slow = """
import time
from headrace import Model
class Slow(Model):
    def handle(self, requests):
        time.sleep(0.3)
        return ["done" for _ in requests]
"""
    write_model(tmp_path / "slow", slow)
    assert load(multi, "slow", tmp_path / "slow") == 200
    sock = multi.connect()
    sock.sendall(b"POST /models/slow/invoke HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n{}")
    wait_until(lambda: multi.metric("headrace_slots_leased") == 1, "not under way")
    assert multi.manage("DELETE", "/models/slow").status == 200
    assert sock.recv(1000).endswith(b"done")


def test_should_spread_loads_over_workers_and_frontends(serve, store):
    server = serve(SAGEMAKER_MULTI_MODEL="true", HEADRACE_WORKERS="2", HEADRACE_FRONTENDS="2")
    assert (len(server.named("worker")), len(server.named("frontend"))) == (2, 2)
    for i in range(3):
        assert load(server, f"n{i}", store / f"m{i}") == 200
    for round in range(20):
        assert server.post(f"/models/n{round % 3}/invoke", b"{}").json() == round % 3
    workers = {
        worker["id"] for i in range(3) for worker in json.loads(server.manage("GET", f"/models/n{i}").body)["workers"]
    }
    assert len(workers) == 2
