"""SageMaker's container contracts on one port: multi-model, single-model, batch transform.

Sources: Amazon SageMaker, "Custom Containers Contract for Multi-Model Endpoints", "Use Your Own Inference Code with
Hosting Services", "... with Batch Transform".
"""

import json

import pytest
from openapi_spec_validator import validate

from tests.contract.conftest import Api, write_handler
from tests.e2e.conftest import wait_until

# A single-model handler that takes long enough to load for the time before to be seen.
SLOW = """
import os, time
while not os.path.exists({gate!r}):
    time.sleep(0.01)
def handle(data, context):
    return data and ["well"] * len(data)
"""


@pytest.fixture(scope="module")
def api(serve_module):
    return Api(serve_module(SAGEMAKER_MULTI_MODEL="true", HEADRACE_HOST="127.0.0.1", SAGEMAKER_MAX_PAYLOAD_IN_MB="1"))


def load(api, name, url):
    body = f'{{\n"model_name" : "{name}",\n"url" : "{url}",\n}}'  # the comma is as documented
    return api.infer("POST", "/models", body.encode(), content_type="application/json")


def test_load_invoke_list_describe_unload(api, store):
    assert load(api, "m", store / "mirror").status == 200
    assert load(api, "m", store / "mirror").status == 409
    answer = api.infer("POST", "/models/m/invoke", b"x", **{"X-Amzn-SageMaker-Target-Model": "other.tar.gz"})
    seen = answer.json()
    assert seen["inputs"] == {"body": ["bytearray", "x"]}  # undecoded, as the toolkit's configuration has it
    assert seen["headers"]["X-Amzn-SageMaker-Target-Model"] == "other.tar.gz"
    assert api.infer("GET", "/models").json() == {"models": [{"modelName": "m", "modelUrl": str(store / "mirror")}]}
    document = api.infer("GET", "/models/m").json()
    assert (document["modelName"], document["modelUrl"]) == ("m", str(store / "mirror"))
    assert api.infer("DELETE", "/models/m").status == 200
    for method, path in (("GET", "/models/m"), ("DELETE", "/models/m"), ("POST", "/models/m/invoke")):
        assert api.infer(method, path, None).status == 404


@pytest.mark.parametrize(("model", "status"), [("hungry", 507), ("broken", 500), ("ghost", 404)])
def test_a_load_that_fails_leaves_nothing_behind(api, store, model, status):
    for _ in range(2):  # the retry is no conflict
        answer = load(api, "x", store / model)
        assert (answer.status, answer.json()["code"]) == (status, status)
    assert api.infer("GET", "/models").json() == {"models": []}
    assert api.infer("GET", "/ping").status == 200


def test_the_last_page_has_no_token(api, store):
    for name in ("a", "b"):
        assert load(api, name, store / "mirror").status == 200
    page = api.infer("GET", "/models?limit=1").json()
    assert ([model["modelName"] for model in page["models"]], page["nextPageToken"]) == (["a"], "1")
    page = api.infer("GET", "/models?limit=1&next_page_token=1").json()
    assert ([model["modelName"] for model in page["models"]], "nextPageToken" in page) == (["b"], False)
    for name in ("a", "b"):
        assert api.infer("DELETE", f"/models/{name}").status == 200


def test_the_payload_limit_of_the_environment(api, store):
    assert load(api, "m", store / "mirror").status == 200
    assert api.infer("POST", "/models/m/invoke", b" " * (1 << 20)).status == 200
    assert api.infer("POST", "/models/m/invoke", b" " * ((1 << 20) + 1)).status == 413
    assert api.infer("DELETE", "/models/m").status == 200


def test_what_batch_transform_should_send(api):
    document = api.infer("GET", "/execution-parameters").json()
    assert document == {"MaxConcurrentTransforms": 1, "BatchStrategy": "MULTI_RECORD", "MaxPayloadInMB": 1}


def test_one_document_for_the_one_port(api):
    document = api.infer("OPTIONS", "/").json()
    validate(document)
    assert {"/ping", "/models", "/models/{model_name}/invoke"} <= set(document["paths"])


def test_invocations_without_a_model_of_the_start(api):
    answer = api.infer("POST", "/invocations", b"x")
    assert (answer.status, answer.json()["type"]) == (400, "BadRequestException")


def test_a_single_model_endpoint_is_unhealthy_until_the_model_is_loaded(serve, tmp_path):
    gate = tmp_path / "gate"
    model = write_handler(tmp_path / "base", "model", SLOW.format(gate=str(gate)))
    server = serve.begin(SAGEMAKER_BASE_DIR=str(model.parent), HEADRACE_HOST="127.0.0.1")
    wait_until(lambda: server.find(r" listening .*inference="), server.log)
    server.port = int(server.find(r" inference=http://\S*?:(\d+)").group(1))
    wait_until(lambda: server.find(r" worker\.up .*worker=1 "), "no worker for the model")
    assert server.request("GET", "/ping").status == 503
    gate.touch()
    server.ready()
    assert server.request("GET", "/ping").status == 200
    assert server.post("/invocations", json.dumps({}).encode()).body == b"well"


@pytest.mark.parametrize(("ranges", "is_fine"), [("10000-10999", True), ("9", False), ("10999-10000", False)])
def test_the_safe_port_range_holds_for_a_management_port(ranges, is_fine):
    from headrace import settings
    from headrace.errors import ConfigError

    environ = {"SAGEMAKER_SAFE_PORT_RANGE": ranges, "SAGEMAKER_BIND_TO_PORT": "8081"}
    if is_fine:
        found = settings.load({}, environ).config
        assert (found.port, found.single_port) == (8081, True)
        assert settings.load({"management_port": "10500"}, environ).config.management_port == 10500
        with pytest.raises(ConfigError, match="is not in SAGEMAKER_SAFE_PORT_RANGE"):
            settings.load({"management_port": "9000"}, environ)
    else:
        with pytest.raises(ConfigError, match="SAGEMAKER_SAFE_PORT_RANGE="):
            settings.load({}, environ)
