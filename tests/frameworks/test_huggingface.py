"""sagemaker-huggingface-inference-toolkit from PyPI, unmodified, with a tiny model of random weights."""

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.contract.container import containers

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sagemaker_huggingface_inference_toolkit") is None,
    reason="sagemaker-huggingface-inference-toolkit is not installed: make test-frameworks",
)

ENTRY = """
import os
from sagemaker_inference import model_server
model_server.MMS_CONFIG_FILE = os.environ["CONFIG_FILE"]
from sagemaker_huggingface_inference_toolkit import mms_model_server
mms_model_server.start_model_server()
"""
TINY = """
import sys
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer
directory, labels = sys.argv[1], int(sys.argv[2])
with open(f"{directory}/vocab.txt", "w") as file:
    file.write("\\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "mill"]))
BertTokenizer(f"{directory}/vocab.txt").save_pretrained(directory)
shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
config = BertConfig(vocab_size=8, num_labels=labels, **shape)
BertForSequenceClassification(config).save_pretrained(directory)
"""
OWN_CODE = """
import json, tag
def predict_fn(data, model):
    return {"tag": tag.NAME, "labels": len(model(data["inputs"], top_k=None))}
"""
SEND = {"content_type": "application/json"}


@pytest.fixture
def container(tmp_path):
    with containers(tmp_path, ENTRY, HF_TASK="text-classification", HF_HUB_OFFLINE="1") as start:
        yield start


def make_model(directory, labels):
    directory.mkdir()
    subprocess.run([sys.executable, "-c", TINY, str(directory), str(labels)], check=True, timeout=300)
    return directory


def test_single_model(container, tmp_path):
    make_model(tmp_path / "model", 3)
    one = container(SAGEMAKER_MODEL_SERVER_WORKERS="1")
    status, body = one.request("POST", "/invocations", b'{"inputs": "good mill"}', **SEND)
    assert status == 200, body
    ((answer,),) = [json.loads(body)]
    assert answer["label"] in ("LABEL_0", "LABEL_1", "LABEL_2")
    assert 0 < answer["score"] < 1
    status, body = one.request("POST", "/invocations", b'{"inputs": "good"}', content_type="image/\u00e4".encode())
    assert status == 400
    assert json.loads(body)["code"] == 400
    status, body = one.request("POST", "/invocations", b'{"inputs": ["a"', **SEND)
    assert status == 400, "the toolkit's own error, and the worker lives on"
    assert one.request("POST", "/invocations", b'{"inputs": "bad"}', **SEND)[0] == 200
    assert "Transform_Fn" in one.out.read_text() or "Transform Fn" in one.out.read_text()


def test_multi_model_with_code_of_their_own(container, tmp_path):
    one = container(SAGEMAKER_MULTI_MODEL="true", SAGEMAKER_MODEL_SERVER_WORKERS="1")
    for name, labels in [("a", 2), ("b", 4)]:
        directory = make_model(tmp_path / name, labels)
        (directory / "code").mkdir()
        (directory / "code" / "inference.py").write_text(OWN_CODE)
        (directory / "code" / "tag.py").write_text(f"NAME = {name!r}\n")
        document = {"model_name": name, "url": str(directory)}
        status, body = one.request("POST", "/models", json.dumps(document).encode(), **SEND)
        assert status == 200, body
    for name, labels in [("a", 2), ("b", 4), ("a", 2)]:
        status, body = one.request("POST", f"/models/{name}/invoke", b'{"inputs": "mill"}', **SEND)
        assert (status, json.loads(body)) == (200, {"tag": name, "labels": labels})
    assert one.request("DELETE", "/models/a")[0] == 200
    assert one.request("POST", "/models/a/invoke", b'{"inputs": "mill"}', **SEND)[0] == 404
