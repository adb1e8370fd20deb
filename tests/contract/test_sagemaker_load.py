"""SageMaker's contract while there is much to do: pings are answered, and SIGTERM loses nothing.

What a SIGKILL leaves, which is nothing, is tests/fault/test_lifeline.py's.

Sources: Amazon SageMaker, "Custom Containers Contract for Multi-Model Endpoints" and "Use Your Own Inference Code with
Hosting Services", how SageMaker stops a container and how a container should respond to health checks.
"""

import json
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.contract.conftest import write_handler
from tests.e2e.conftest import WATCHDOG_S, wait_until

CLIENTS = 40
# Keeps its core busy until the gate opens, and says that it has begun.
BUSY = """
import os
def handle(data, context):
    if data is None:
        return None
    open({begun!r}, "w").close()
    while not os.path.exists({gate!r}):
        pass
    return ["well"] * len(data)
"""


@pytest.fixture
def busy(serve, tmp_path):
    """busy(is_multi_model) -> (server, target of a model that computes until the gate is there)."""

    def start(is_multi_model):
        source = BUSY.format(begun=str(tmp_path / "begun"), gate=str(tmp_path / "gate"))
        model = write_handler(tmp_path / "base", "model", source)
        environment = {"HEADRACE_HOST": "127.0.0.1", "HEADRACE_DRAIN": "20"}
        if not is_multi_model:
            return serve(SAGEMAKER_BASE_DIR=str(model.parent), **environment), "/invocations"
        server = serve(SAGEMAKER_MULTI_MODEL="true", **environment)
        body = json.dumps({"model_name": "m", "url": str(model)}).encode()
        assert server.post("/models", body).status == 200
        return server, "/models/m/invoke"

    return start


@pytest.mark.parametrize("is_multi_model", [True, False], ids=["multi-model", "single model"])
def test_ping_is_answered_while_every_worker_computes(busy, tmp_path, is_multi_model):
    server, target = busy(is_multi_model)
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = [clients.submit(server.post, target, b"{}") for _ in range(CLIENTS)]
        try:
            wait_until((tmp_path / "begun").exists, "no request was begun")
            for _ in range(20):
                assert server.request("GET", "/ping").status == 200
            assert not any(answer.done() for answer in answers), "the pings were answered before any request was"
        finally:
            (tmp_path / "gate").touch()
        assert {answer.result(WATCHDOG_S).status for answer in answers} == {200}


def test_sigterm_answers_what_was_accepted_and_ends_with_status_0(busy, tmp_path):
    server, target = busy(False)
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = [clients.submit(server.post, target, b"{}") for _ in range(CLIENTS)]
        wait_until(lambda: server.metric("headrace_unanswered_requests") >= CLIENTS, "not all were accepted")
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.find(r" draining "), "no drain")
        (tmp_path / "gate").touch()
        assert {answer.result(WATCHDOG_S).status for answer in answers} == {200}
    assert server.process.wait(WATCHDOG_S) == 0
