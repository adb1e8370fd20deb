"""SageMaker scripts without the toolkit: which functions are called with what, and what becomes of their results."""

import io
import json
import os

import numpy as np
import pytest
from local_request import LocalRequest

from headrace.errors import ModelError
from headrace.loaders import Options, find_entry, load

SCRIPT = """
import json, os
import helper
calls = []
def pre_model_fn(model_dir):
    calls.append("pre " + os.path.basename(model_dir))
def model_fn(model_dir):
    calls.append("model")
    return helper.FACTOR
def model_warmup_fn(model_dir, model, context):
    calls.append(f"warm {model} {context.model_name}")
def predict_fn(data, model):
    return data * model
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    """script(SOURCE, **files) -> run(*requests) of the loaded model."""
    for name in [name for name in os.environ if name.startswith("SAGEMAKER_")]:
        monkeypatch.delenv(name)
    opened = []

    def open_one(source, name="code/inference.py", **options):
        path = tmp_path / "m" / name
        path.parent.mkdir(parents=True)
        path.write_text(source)
        (path.parent / "helper.py").write_text("FACTOR = 3\n")
        opened.append(load(tmp_path / "m", None, Options("m", **options), len(opened)))

        def run(*requests):
            opened[0].run(list(requests))
            return requests if len(requests) > 1 else requests[0]

        return run

    yield open_one
    for servable in opened:
        servable.unload()


def npy(value):
    content = io.BytesIO()
    np.save(content, value, allow_pickle=value.dtype == object)
    return content.getvalue()


def content_type(request):
    lines = dict(line.split(b": ") for line in request.fields.split(b"\r\n") if line)
    from headrace import media

    exact = {number: name for name, number in media.EXACT.items()}
    return exact.get(request.answer_kind) or lines[b"content-type"].decode()


@pytest.mark.parametrize("name", ["code/inference.py", "inference.py"])
def test_functions_in_their_order_and_defaults_for_the_others(script, name):
    run = script(SCRIPT + "def output_fn(p, accept):\n    return json.dumps([calls, p.tolist(), accept])\n", name)
    request = run(LocalRequest([1, 2]))
    assert json.loads(request.answer) == [["pre m", "model", "warm 3 m"], [3, 6], "application/json"]
    assert content_type(request) == "application/json"


@pytest.mark.parametrize(
    ("body", "sent", "accept", "answer", "kind"),
    [
        (b"[[1, 2], [3, 4]]", "application/json", "", b"[[3, 6], [9, 12]]", "application/json"),
        (b"[1.5]", "application/json", "text/csv", b"4.5\n", "text/csv"),
        (b"1,2\n3,4\n", "text/csv", "application/json", b"[[3, 6], [9, 12]]", "application/json"),
        (b"1,2", "text/csv", "*/*", b"[3, 6]", "application/json"),
        (npy(np.float32([1, 2])), "application/x-npy", "image/png, text/csv", b"3.0\n6.0\n", "text/csv"),
        (b"[1]", "application/json", "application/x-npy", npy(np.array([3])), "application/x-npy"),
    ],
)
def test_content_types(script, body, sent, accept, answer, kind):
    request = script(SCRIPT)(LocalRequest(body, sent, accept))
    assert (request.status, request.answer, content_type(request)) == (200, answer, kind)


def test_sparse_matrix(script):
    from scipy import sparse

    content = io.BytesIO()
    sparse.save_npz(content, sparse.csr_matrix([[0, 2], [0, 0]]))
    run = script(SCRIPT.replace("data * model", "(data * model).toarray()"))
    assert run(LocalRequest(content.getvalue(), "application/x-npz")).answer == b"[[0, 6], [0, 0]]"


def test_default_accept(script, monkeypatch):
    monkeypatch.setenv("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "text/csv")
    assert script(SCRIPT)(LocalRequest([1, 2])).answer == b"3\n6\n"


def test_script_by_another_name_and_from_the_submit_directory(script, monkeypatch, tmp_path):
    monkeypatch.setenv("SAGEMAKER_PROGRAM", "serve.py")
    monkeypatch.setenv("SAGEMAKER_SUBMIT_DIRECTORY", str(tmp_path / "submitted"))
    (tmp_path / "submitted").mkdir()
    (tmp_path / "submitted" / "serve.py").write_text(SCRIPT)
    (tmp_path / "submitted" / "helper.py").write_text("FACTOR = 5\n")
    run = script("raise AssertionError('not this one')\n")
    assert run(LocalRequest([1])).answer == b"[5]"


def test_a_default_handler_comes_first(tmp_path):
    (tmp_path / "inference.py").write_text(SCRIPT)
    assert not find_entry(tmp_path, None, "service:handle").is_script
    assert find_entry(tmp_path, None, None).is_script


TRANSFORM = """
def model_fn(model_dir):
    return "model"
def transform_fn(model, body, content_type, accept, context):
    header = context.get_request_header(0, "X-Mine")
    if header == "bad":
        raise Failure("on purpose")
    context.set_response_header(0, "X-Echo", header or "")
    return f"{model} {type(body).__name__} {content_type} {accept} {header}", "text/x-own"
class Failure(Exception):
    status_code = 422
    phrase = "No Good"
"""


def test_each_request_of_a_batch_has_its_own_headers_and_fails_alone(script):
    run = script(TRANSFORM, batch_size=4)
    requests = [
        LocalRequest(b"{}", accept="text/csv", headers=[("X-Mine", "a")]),
        LocalRequest(b"{}", headers=[("X-Mine", "bad")]),
        LocalRequest(b"x", "image/png", headers=[("x-other", "c"), ("X-Mine", "d")]),
        LocalRequest(b"\xff", "text/csv"),
    ]
    first, bad, third, undecodable = run(*requests)
    assert first.answer == b"model str application/json text/csv a"
    assert first.fields == b"X-Echo: a\r\ncontent-type: text/x-own\r\n"
    assert bad.status == 422
    assert bad.answer.startswith(b"on purpose\nTraceback")
    assert bad.fields == b":No Good\r\n"  # the reason phrase, as ext/response.h has it
    assert third.answer == b"model bytearray image/png application/json d"
    assert undecodable.status == 500
    assert b"UnicodeDecodeError" in undecodable.answer


@pytest.mark.parametrize(
    ("body", "sent", "accept", "message"),
    [
        (b"{", "application/json", "", b"JSONDecodeError"),
        (b"x", "image/png", "", b"content-type image/png is not read without an input_fn"),
        (b"x", "", "", b"content-type None is not read"),
        (b"[1]", "application/json", "image/png", b"no answer in image/png"),
        (npy(np.array([{}])), "application/x-npy", "", b"allow_pickle=False"),
    ],
)
def test_what_the_defaults_cannot_read_or_say_is_500_with_the_reason(script, body, sent, accept, message):
    request = script(SCRIPT)(LocalRequest(body, sent, accept))
    assert request.status == 500
    assert message in request.answer


def test_out_of_memory_is_507(script):
    run = script("def model_fn(d):\n    pass\ndef predict_fn(data, model):\n    raise MemoryError\n")
    assert run(LocalRequest([1])).status == 507


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def predict_fn(d, m): ...\n", "has no model_fn"),
        ("def model_fn(d): ...\n", "neither predict_fn"),
        ("def model_fn(d): ...\ndef transform_fn(*a): ...\ndef input_fn(*a): ...\n", "transform_fn and also input_fn"),
        ("model_fn = 3\n", "model_fn is a int"),
        ("def model_fn(): ...\ndef predict_fn(d, m): ...\n", "model_fn takes 0 arguments; it must take 1, or 2"),
        ("def model_fn(d):\n    raise KeyError('weights')\ndef predict_fn(d, m): ...\n", "KeyError: 'weights'"),
        ("import nowhere\n", "No module named 'nowhere'"),
    ],
)
def test_script_that_cannot_be_served_says_why_at_load(script, source, message):
    with pytest.raises(ModelError, match=message):
        script(source)


def test_program_that_is_no_script_is_refused(script, monkeypatch):
    monkeypatch.setenv("SAGEMAKER_PROGRAM", "not a name")
    with pytest.raises(ModelError, match="names no module"):
        script(SCRIPT)
