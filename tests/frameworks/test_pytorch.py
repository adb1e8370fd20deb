"""sagemaker-pytorch-inference from PyPI, unmodified, through `torchserve`, with small TorchScript models.

It carries an older sagemaker_inference of its own, so it lies in a folder beside the others (`make test-frameworks`).
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.container import containers

TOOLKIT = Path(sys.prefix, "pytorch-toolkit")
pytestmark = pytest.mark.skipif(
    not TOOLKIT.is_dir(), reason="sagemaker-pytorch-inference is not installed: make test-frameworks"
)

ENTRY = """
import os
from sagemaker_pytorch_serving_container import handler_service, torchserve
torchserve.TS_CONFIG_FILE = os.environ["CONFIG_FILE"]
torchserve.start_torchserve(handler_service=handler_service.__file__)
"""
TINY = """
import sys, torch
model = torch.nn.Linear(2, 1)
with torch.no_grad():
    model.weight.copy_(torch.tensor([[float(sys.argv[2]), 1.0]]))
    model.bias.zero_()
torch.jit.script(model).save(sys.argv[1])
"""
BATCHED = """
import torch
def model_fn(model_dir):
    return torch.jit.load(model_dir + "/model.pt")
def transform_fn(model, data, content_type, accept, context):
    return str(context.system_properties["batch_size"]), "text/plain"
"""
SEND = {"content_type": "application/json"}


@pytest.fixture
def container(tmp_path):
    with containers(tmp_path, ENTRY, PYTHONPATH=str(TOOLKIT)) as start:
        yield start


def make_model(directory, factor, code=None):
    (directory / "code").mkdir(parents=True)
    if code is not None:
        (directory / "code" / "inference.py").write_text(code)
    subprocess.run([sys.executable, "-c", TINY, str(directory / "model.pt"), str(factor)], check=True, timeout=300)
    return directory


def test_single_model_with_the_defaults(container, tmp_path):
    make_model(tmp_path / "model", 3)
    one = container(SAGEMAKER_MODEL_SERVER_WORKERS="1")
    assert one.request("POST", "/invocations", b"[[1, 2]]", **SEND) == (200, b"[[5.0]]")
    assert one.request("POST", "/invocations", b"[[1, 2]]", accept="text/csv", **SEND) == (200, b"5.0\n")
    status, body = one.request("POST", "/invocations", b"[[1, 2, 3]]", **SEND)
    assert status == 500
    assert b"Traceback" in body
    assert one.request("POST", "/invocations", b"[[2, 2]]", **SEND) == (200, b"[[8.0]]")


def test_settings_of_the_models_property(container, tmp_path):
    make_model(tmp_path / "model", 3, BATCHED)
    one = container(
        SAGEMAKER_TS_BATCH_SIZE="4",
        SAGEMAKER_TS_MAX_BATCH_DELAY="5",
        SAGEMAKER_TS_MIN_WORKERS="1",
        SAGEMAKER_TS_MAX_WORKERS="1",
        SAGEMAKER_TS_RESPONSE_TIMEOUT="60",
    )
    assert one.request("POST", "/invocations", b"[]", **SEND) == (200, b"4")


def test_multi_model(container, tmp_path):
    one = container(SAGEMAKER_MULTI_MODEL="true", SAGEMAKER_MODEL_SERVER_WORKERS="1")
    for name, factor in [("a", 2), ("b", 5)]:
        document = {"model_name": name, "url": str(make_model(tmp_path / name, factor))}
        status, body = one.request("POST", "/models", json.dumps(document).encode(), **SEND)
        assert status == 200, body
    for name, answer in [("a", b"[[3.0]]"), ("b", b"[[6.0]]"), ("a", b"[[3.0]]")]:
        assert one.request("POST", f"/models/{name}/invoke", b"[[1, 1]]", **SEND) == (200, answer)
    assert one.request("DELETE", "/models/a")[0] == 200
