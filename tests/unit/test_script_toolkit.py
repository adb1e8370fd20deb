"""The same scripts under the SageMaker Inference Toolkit itself and under ours: the same requests, the same answers."""

import io
import itertools
import os

import numpy as np
import pytest
from local_request import LocalRequest

from headrace import media
from headrace.loaders import Options, load

pytest.importorskip("sagemaker_inference", reason="sagemaker-inference is not installed: .[test]")

MODEL = "def model_fn(model_dir{context}):\n    return 3\n"
PREDICT = "def predict_fn(data, model{context}):\n    return data * model\n"
INPUT = "def input_fn(body, content_type{context}):\n    return (type(body).__name__ + content_type)\n"
OUTPUT = "def output_fn(prediction, accept{context}):\n    return f'{{prediction}} {{accept}}'\n"
TRANSFORM = "def transform_fn(model, body, content_type, accept{context}):\n    return {answer}\n"
HOOKS = (
    "calls = []\ndef pre_model_fn(model_dir{context}):\n    calls.append('pre')\n"
    "def model_warmup_fn(model_dir, model{context}):\n    calls.append(f'warm {{model}}')\n"
)
SCRIPTS = {
    "defaults": MODEL + PREDICT,
    "input": MODEL + PREDICT + INPUT,
    "output": MODEL + PREDICT + OUTPUT,
    "all": MODEL + PREDICT + INPUT + OUTPUT,
    "transform": MODEL + TRANSFORM.replace("{answer}", "f'{{model}} {{body}} {{content_type}} {{accept}}'"),
    "transform with a type": MODEL + TRANSFORM.replace("{answer}", "(b'{{}}', 'text/x-own')"),
    "hooks": HOOKS + MODEL + TRANSFORM.replace("{answer}", "str(calls)"),
    "error": MODEL + TRANSFORM.replace("{answer}", "1 / 0"),
    "error of the toolkit's kind": "from sagemaker_inference.errors import BaseInferenceToolkitError\n"
    "def fail():\n    raise BaseInferenceToolkitError(418, 'said', 'short and stout')\n"
    + MODEL
    + TRANSFORM.replace("{answer}", "fail()"),
    "sets what it likes": MODEL + TRANSFORM.replace("{answer}", "'x' if context is None else set_all(context)"),
}
SET_ALL = (
    "def set_all(context):\n    context.set_response_status(206, 'Enough', 0)\n"
    "    context.set_response_header(0, 'X-Own', 'yes')\n    return 'set'\n"
)


def npy(value):
    content = io.BytesIO()
    np.save(content, value)
    return content.getvalue()


REQUESTS = [
    (b"[[1, 2], [3, 4]]", "application/json", "application/json"),
    (b"[1.5, -2]", "application/json", "text/csv"),
    (b"7", "application/json", ""),
    (b"1,2\n3,4\n", "text/csv", "application/json"),
    (b"1", "text/csv", "*/*"),
    (npy(np.float32([1, 2])), "application/x-npy", "image/png, text/csv"),
    (b"[1]", "application/json", "application/x-npy"),
    (b"[1]", "application/json", "image/png"),
    (b"[1]", "image/png", "application/json"),
    (b"[1", "application/json", "application/json"),
    (b"\xff", "application/json", "application/json"),
    (b"", "application/json", "application/json"),
]


@pytest.fixture
def both(tmp_path, monkeypatch):
    """both(SOURCE) -> (run by the toolkit, run by ours), each from a request to (status, answer, fields)."""
    for name in [name for name in os.environ if name.startswith("SAGEMAKER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    opened, numbers = [], itertools.count(100)

    def runner(directory, handler):
        servable = load(directory, handler, Options("m", decode_input=False), next(numbers))
        opened.append(servable)

        def run(request):
            servable.run([request])
            lines = dict(line.split(b": ", 1) for line in request.fields.split(b"\r\n") if b": " in line)
            kind = lines.pop(b"content-type", None) or EXACT[request.answer_kind]
            # Below its first line an error has a traceback, which names each one's own functions.
            answer = request.answer.split(b"\nTraceback")[0]
            return request.status, answer, kind.decode().partition(";")[0], lines

        return run

    def open_both(source):
        (tmp_path / "inference.py").write_text(source)
        return runner(tmp_path, "sagemaker_inference.default_handler_service"), runner(tmp_path, None)

    yield open_both
    for servable in opened:
        servable.unload()


EXACT = {number: name.encode() for name, number in media.EXACT.items()} | {media.NONE: b"none"}


@pytest.mark.parametrize("with_context", [False, True], ids=["plain", "context"])
@pytest.mark.parametrize("source", SCRIPTS.values(), ids=SCRIPTS)
def test_equal_answers(both, source, with_context):
    if "context is None" in source:
        source = SET_ALL + source.replace("context is None", "not with_context").replace(
            "set_all(context)", "set_all(context)" if with_context else "None"
        )
        source = f"with_context = {with_context}\n" + source
    toolkit, ours = both(source.format(context=", context" if with_context else ""))
    for body, content_type, accept in REQUESTS:
        expected = toolkit(LocalRequest(body, content_type, accept))
        found = ours(LocalRequest(body, content_type, accept))
        if expected[0] == 500 and "fail" not in source and "1 / 0" not in source:
            # What the defaults refuse each says in its own words, and the toolkit in the reason phrase too.
            expected, found = (expected[0], expected[2]), (found[0], found[2])
        assert found == expected, (body, content_type, accept)
