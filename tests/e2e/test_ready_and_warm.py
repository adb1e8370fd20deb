"""Models are loaded and warm before the server says that it is ready, and before a load is answered."""

from pathlib import Path

import pytest
from conftest import ECHO, Serve, Server, in_background, wait_until, write_model

# Takes 30 MiB with its first request, which waits for the file `go`.
LAZY = """
import time
import numpy as np
from headrace import Model
class Lazy(Model):
    weights = None
    def load(self, directory):
        self.directory = directory
    def handle(self, requests):
        if self.weights is None:
            (self.directory / "begun").touch()
            while not (self.directory / "go").exists():
                time.sleep(0.005)
            self.weights = np.ones(30 << 17)
        return [len(bytes(request.body)) for request in requests]
"""
WARM = '[warm_up_request]\nbody = "[]"\n'
HANDLER = """
calls = 0
def handle(data, context):
    global calls
    if data is None:
        return None
    calls += 1
    return [str(calls)] * len(data)
"""
MIB = 1 << 20


def load(server: Server, path: Path, **fields: str):
    return server.manage("POST", "/models", {"model_name": path.name, "url": str(path), **fields})


def test_should_not_be_ready_before_its_models_are_warm(serve: Serve, tmp_path: Path) -> None:
    server = serve.begin(write_model(tmp_path / "lazy", LAZY, **{"headrace.toml": WARM}), HEADRACE_WORKERS="1")
    wait_until((tmp_path / "lazy" / "begun").exists, "no warm-up request came")
    server.port = int(wait_until(lambda: server.find(r" inference=http://\S*?:(\d+)"), "not listening").group(1))
    assert server.request("GET", "/ping").status == 503
    assert server.request("GET", "/health/ready").status == 503
    (tmp_path / "lazy" / "go").touch()
    server.ready()
    wait_until(lambda: server.request("GET", "/ping").status == 200, "it does not become ready")
    assert server.post("/models/lazy/invoke", b"[1]").body == b"3"
    assert server.metric("headrace_memory_charged_bytes") > 30 * MIB


def test_should_answer_a_load_when_the_model_is_warm(serve: Serve, tmp_path: Path) -> None:
    write_model(tmp_path / "lazy", LAZY, **{"headrace.toml": WARM})
    server = serve("--model-store", str(tmp_path))
    answer = in_background(lambda: load(server, tmp_path / "lazy"))
    wait_until((tmp_path / "lazy" / "begun").exists, "no warm-up request came")
    assert server.manage("GET", "/models/lazy").json()["status"] == "loading"
    (tmp_path / "lazy" / "go").touch()
    assert answer().status == 200
    assert server.metric("headrace_memory_charged_bytes") > 30 * MIB, "what the first request takes counts"


@pytest.mark.parametrize("isolation", ["shared", "process"])
def test_should_warm_up_a_handler_too(serve: Serve, tmp_path: Path, isolation: str) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "service.py").write_text(HANDLER)
    (tmp_path / "m" / "headrace.toml").write_text(WARM + "times = 4\n")
    server = serve("--model-store", str(tmp_path), HEADRACE_ISOLATION=isolation)
    assert load(server, tmp_path / "m", handler="service:handle").status == 200
    assert server.post("/predictions/m", b"{}").body == b"5"


def test_should_not_load_a_model_that_fails_its_warm_up(serve: Serve, tmp_path: Path) -> None:
    write_model(
        tmp_path / "broken", ECHO.replace("return", "raise ValueError('no such luck');"), **{"headrace.toml": WARM}
    )
    write_model(tmp_path / "hungry", ECHO.replace("return", "raise MemoryError;"), **{"headrace.toml": WARM})
    server = serve("--model-store", str(tmp_path))
    before = server.held()
    answer = load(server, tmp_path / "broken")
    assert answer.status == 500
    assert "its warm-up request was answered 500" in answer.json()["message"]
    assert "ValueError: no such luck" in answer.json()["message"]
    assert load(server, tmp_path / "hungry").status == 507
    assert server.manage("GET", "/models/broken").status == 404
    server.check_holds_no_more_than(before)


def test_should_preload_a_multi_model_endpoint(serve: Serve, tmp_path: Path) -> None:
    good = write_model(tmp_path / "good", ECHO)
    bad = write_model(tmp_path / "bad", "from headrace import Model\nraise ValueError('no such luck')\n")
    server = serve(SAGEMAKER_MULTI_MODEL="true", HEADRACE_HOST="127.0.0.1", HEADRACE_PRELOAD=f"{good}, {bad}")
    assert server.request("GET", "/ping").status == 200, "one bad model does not make the endpoint unhealthy"
    assert server.post("/models/good/invoke", b"[1]").body == b"[1]"
    assert [model["modelName"] for model in server.request("GET", "/models").json()["models"]] == ["bad", "good"]
    assert "no such luck" in server.request("GET", "/models/bad").json()["reason"]
    assert server.request("DELETE", "/models/good").status == 200


def test_should_stay_up_where_the_only_model_to_be_preloaded_fails(serve: Serve, tmp_path: Path) -> None:
    bad = write_model(tmp_path / "bad", "from headrace import Model\nraise ValueError('no such luck')\n")
    server = serve(SAGEMAKER_MULTI_MODEL="true", HEADRACE_HOST="127.0.0.1", HEADRACE_PRELOAD=bad)
    assert server.request("GET", "/ping").status == 200
