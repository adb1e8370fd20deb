"""sagemaker-mxnet-inference from PyPI, unmodified, with a small MXNet model, in an environment of MXNet's time."""

import importlib.util
import subprocess
import sys

import pytest

from tests.contract.container import containers

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sagemaker_mxnet_serving_container") is None,
    reason="sagemaker-mxnet-inference is not installed: make test-frameworks",
)

ENTRY = """
import os
from sagemaker_inference import model_server
model_server.MMS_CONFIG_FILE = os.environ["CONFIG_FILE"]
from sagemaker_mxnet_serving_container import serving
serving.main()
"""
# y = 3 a + b, as MXNet's training saves a module, and as Gluon exports a block.
MODULE = """
import json, os, sys
import mxnet as mx
directory = sys.argv[1]
output = mx.sym.FullyConnected(mx.sym.Variable("data"), name="fc", num_hidden=1)
module = mx.mod.Module(output, data_names=["data"], label_names=None)
module.bind(data_shapes=[("data", (1, 2))], for_training=False)
module.set_params({"fc_weight": mx.nd.array([[3, 1]]), "fc_bias": mx.nd.zeros(1)}, {})
module.save_checkpoint(os.path.join(directory, "model"), 0)
with open(os.path.join(directory, "model-shapes.json"), "w") as file:
    json.dump([{"name": "data", "shape": [1, 2]}], file)
"""
SCRIPT = """
import mxnet as mx
def model_fn(model_dir):
    block = mx.gluon.nn.Dense(1, in_units=2)
    block.initialize(mx.init.One())
    return block
"""
SEND = {"content_type": "application/json"}


@pytest.fixture
def container(tmp_path):
    with containers(tmp_path, ENTRY) as start:
        yield start


def test_module_with_the_defaults(container, tmp_path):
    (tmp_path / "model" / "code").mkdir(parents=True)
    (tmp_path / "model" / "code" / "inference.py").write_text("")
    subprocess.run([sys.executable, "-c", MODULE, str(tmp_path / "model")], check=True, timeout=300)
    one = container(SAGEMAKER_MODEL_SERVER_WORKERS="1", SAGEMAKER_PROGRAM="inference.py")
    assert one.request("POST", "/invocations", b"[[1, 2]]", **SEND) == (200, b"[[5.0]]")
    status, body = one.request("POST", "/invocations", b"[[1, 2", **SEND)
    assert status == 500
    assert b"Traceback" in body
    assert one.request("POST", "/invocations", b"[[2, 2]]", **SEND) == (200, b"[[8.0]]")


def test_gluon_block_of_a_script(container, tmp_path):
    (tmp_path / "model" / "code").mkdir(parents=True)
    (tmp_path / "model" / "code" / "inference.py").write_text(SCRIPT)
    one = container(SAGEMAKER_MODEL_SERVER_WORKERS="1", SAGEMAKER_PROGRAM="inference.py")
    assert one.request("POST", "/invocations", b"[[1, 2]]", accept="application/json", **SEND) == (200, b"[[3.0]]")
