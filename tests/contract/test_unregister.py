"""DELETE /models/NAME at awkward moments: during a load, during a request that does not end, twice."""

import pytest

from tests.contract.conftest import Api, write_handler
from tests.e2e.conftest import in_background, wait_until

# Loads, or answers, for ever: {when} is the condition. The file `begun` says that it is at it.
ENDLESS = """
import os, pathlib, time
def handle(data, context):
    if {when}:
        pathlib.Path({begun!r}).touch()
        time.sleep(3600)
    return data and ["well"] * len(data)
"""


@pytest.fixture
def api(serve, tmp_path):
    """A store with `endless_load` and `endless_request`, each with a file that says that it has begun."""
    for name, when in (("endless_load", "data is None"), ("endless_request", "data is not None")):
        write_handler(tmp_path, name, ENDLESS.format(when=when, begun=str(tmp_path / name / "begun")))
    return Api(serve("--model-store", str(tmp_path), HEADRACE_UNLOAD_TIMEOUT="200ms"))


def begun(tmp_path, name):
    wait_until((tmp_path / name / "begun").exists, "not begun")
    (tmp_path / name / "begun").unlink()


def dedicated(api):
    """Workers beyond the shared ones."""
    shared = int(api.server.find(r" workers=(\d+)").group(1))
    return len(api.server.named("worker")) - shared


@pytest.mark.parametrize("synchronous", ["true", "false"])
def test_an_unload_ends_a_load_that_would_not_end(api, tmp_path, synchronous):
    load = in_background(lambda: api.manage("POST", f"/models?url=endless_load&model_name=m&synchronous={synchronous}"))
    begun(tmp_path, "endless_load")
    assert api.manage("GET", "/models/m").json()["status"] == "loading"
    answer = api.manage("DELETE", "/models/m")
    assert (answer.status, answer.json()) == (200, {"status": 'Model "m" unregistered'})
    assert load().status == (409 if synchronous == "true" else 202)
    assert api.manage("GET", "/models/m").status == 404
    wait_until(lambda: dedicated(api) == 0, "the worker that was loading is still there")
    assert api.manage("POST", "/models?url=endless_request&model_name=m").status == 200  # the name is free
    assert api.manage("DELETE", "/models/m").status == 200


def test_an_unload_ends_a_scaling_that_would_not_end(api, tmp_path):
    assert api.manage("POST", "/models?url=endless_request&model_name=m").status == 200
    service = tmp_path / "endless_request" / "service.py"
    service.write_text(ENDLESS.format(when="data is None", begun=str(tmp_path / "endless_request" / "begun")))
    assert api.manage("PUT", "/models/m?min_worker=2").status == 202
    begun(tmp_path, "endless_request")
    answers = [in_background(lambda: api.manage("DELETE", "/models/m").status) for _ in range(2)]
    assert sorted(answer() for answer in answers) == [200, 404]
    wait_until(lambda: dedicated(api) == 0, "workers of the model are still there")


def test_a_request_that_does_not_end_is_ended_with_its_worker_and_408_says_so(api, tmp_path):
    assert api.manage("POST", "/models?url=endless_request&model_name=m").status == 200
    request = in_background(lambda: api.infer("POST", "/predictions/m", b"x").status)
    begun(tmp_path, "endless_request")
    answer = api.manage("DELETE", "/models/m")
    document = answer.json()
    assert (answer.status, document["code"], document["type"]) == (408, 408, "RequestTimeoutException")
    assert document["message"].startswith("Timed out while cleaning resources: m")
    assert request() >= 400
    assert dedicated(api) == 0
    assert api.manage("GET", "/models/m").status == 404
