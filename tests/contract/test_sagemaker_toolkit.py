"""The SageMaker Inference Toolkit from PyPI, unmodified: its entry point starts Headrace, which serves its handler."""

import importlib.util
import json
import subprocess
import sysconfig

import pytest

from tests.contract.container import containers
from tests.e2e.conftest import WATCHDOG_S

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sagemaker_inference") is None, reason="sagemaker-inference is not installed: .[test]"
)
ENTRY = """
import os
from sagemaker_inference import model_server
model_server.MMS_CONFIG_FILE = os.environ["CONFIG_FILE"]
model_server.start_model_server(handler_service="sagemaker_inference.default_handler_service")
"""
INFERENCE = """
import os, helper
def model_fn(model_dir):
    with open(os.path.join(model_dir, "factor")) as file:
        return float(file.read())
def predict_fn(data, model, context):
    if context.get_request_header(0, "X-Fail"):
        raise helper.Failure("on purpose: \\u20ac\\nsecond line")
    return data * model
"""
HELPER = "class Failure(Exception):\n    pass\n"


@pytest.fixture
def container(tmp_path):
    with containers(tmp_path, ENTRY) as start:
        yield start


def write_model(directory, factor, code="code"):
    (directory / code).mkdir(parents=True)
    (directory / code / "inference.py").write_text(INFERENCE)
    (directory / code / "helper.py").write_text(HELPER)
    (directory / "factor").write_text(str(factor))
    return directory


def test_single_model(container, tmp_path):
    write_model(tmp_path / "model", 2)
    one = container(SAGEMAKER_MODEL_SERVER_WORKERS="1", SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT="text/csv")
    send = {"content_type": "application/json"}
    assert one.request("POST", "/invocations", b"[1, 2]", accept="application/json", **send) == (200, b"[2.0, 4.0]")
    assert one.request("POST", "/invocations", b"[1, 2]", **send) == (200, b"2.0\n4.0\n")
    status, body = one.request("POST", "/invocations", b"[1]", X_Fail="1", **send)
    assert status == 500
    assert body.decode().startswith("on purpose: €\nsecond line\nTraceback")
    assert one.request("POST", "/invocations", b"[3]", accept="application/json", **send) == (200, b"[6.0]")


def test_multi_model(container, tmp_path):
    one = container(SAGEMAKER_MULTI_MODEL="true", SAGEMAKER_MODEL_SERVER_WORKERS="1")
    send = {"content_type": "application/json"}
    # The toolkit by itself finds a script at the top of a model only; each has modules of the same names.
    for name, factor, code in [("a", 2, "."), ("b", 5, "."), ("c", 7, "code")]:
        document = {"model_name": name, "url": str(write_model(tmp_path / name, factor, code))}
        assert one.request("POST", "/models", json.dumps(document).encode(), **send)[0] == 200
    for _ in range(2):
        for name, answer in [("a", b"[2.0]"), ("b", b"[5.0]"), ("c", b"[7.0]")]:
            assert one.request("POST", f"/models/{name}/invoke", b"[1]", **send) == (200, answer)
    assert one.request("DELETE", "/models/a")[0] == 200
    assert one.request("POST", "/models/a/invoke", b"[1]", **send)[0] == 404
    assert one.request("POST", "/models/b/invoke", b"[1]", **send) == (200, b"[5.0]")


def test_a_model_fn_that_raises_is_the_loads_answer(container, tmp_path):
    one = container(SAGEMAKER_MULTI_MODEL="true", SAGEMAKER_MODEL_SERVER_WORKERS="1")
    model = write_model(tmp_path / "a", 2, ".")
    (model / "factor").unlink()
    load = json.dumps({"model_name": "a", "url": str(model)}).encode()
    status, body = one.request("POST", "/models", load, content_type="application/json")
    assert (status, "FileNotFoundError" in json.loads(body)["message"]) == (500, True), body
    (model / "factor").write_text("3")
    assert one.request("POST", "/models", load, content_type="application/json")[0] == 200
    assert one.request("POST", "/models/a/invoke", b"[1]", content_type="application/json") == (200, b"[3.0]")


def test_archive_made_by_the_real_archiver(container, tmp_path):
    source = write_model(tmp_path / "source", 4, ".")
    (source / "service.py").write_text(
        "from sagemaker_inference.default_handler_service import DefaultHandlerService\n"
        "class Service(DefaultHandlerService):\n    pass\n"
    )
    subprocess.run(
        [
            *(f"{sysconfig.get_path('scripts')}/model-archiver", "--model-name", "made", "--handler", "service"),
            *("--model-path", str(source), "--export-path", str(tmp_path)),
        ],
        check=True,
        timeout=WATCHDOG_S,
    )
    one = container(SAGEMAKER_MULTI_MODEL="true", SAGEMAKER_MODEL_SERVER_WORKERS="1")
    document = {"url": str(tmp_path / "made.mar")}
    status, body = one.request("POST", "/models", json.dumps(document).encode(), content_type="application/json")
    assert status == 200, body
    assert one.request("POST", "/models/made/invoke", b"[1]", content_type="application/json") == (200, b"[4.0]")
