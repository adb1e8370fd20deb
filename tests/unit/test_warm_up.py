"""A model is tried with the request of its settings; what it does wrong is the reason why it is not loaded."""

from pathlib import Path

import numpy as np
import pytest

from headrace import loaders, warm_up
from headrace.errors import ModelError, OutOfMemory
from headrace.model_settings import ModelSettings, parse_settings

PREDICT = """
import numpy as np
from headrace import Model
class Doubles(Model):
    shape = (2,)
    calls = []
    def predict(self, x):
        self.calls.append(np.array(x))
        return 2 * x
"""
HANDLE = """
from headrace import InferenceError, Model, Response
class Handles(Model):
    seen = []
    def handle(self, requests):
        (request,) = requests
        self.seen.append((bytes(request.body), request.content_type, dict(request.headers), request.time_left() > 0))
        return [{}]
"""
FAILURES = {
    "1 / 0": "was answered 500: internal error in model m, request [-0-9a-f]+ .ZeroDivisionError: division by zero",
    "Response({'a': 1}, status=404)": 'was answered 404: {"a":1}',
    "InferenceError(422, 'no such digit')": "was answered 422: no such digit",
}


def load(directory: Path, source: str) -> loaders.Servable:
    directory.mkdir(exist_ok=True)
    (directory / "model.py").write_text(source)
    return loaders.load(directory, None, loaders.Options(name="m"), hash(directory) & 0xFFFFFF)


def test_a_body_is_decoded_as_a_request_s_is(tmp_path: Path) -> None:
    model = load(tmp_path, PREDICT)
    warm_up.run(model, {"body": '{"instances": [[1, 2]]}', "times": 3}, tmp_path)
    assert [call.tolist() for call in model._model.calls] == [[[1, 2]]] * 3
    model.unload()


def test_a_file_is_sent_as_it_is(tmp_path: Path) -> None:
    model = load(tmp_path, PREDICT)
    np.save(tmp_path / "rows.npy", np.full((3, 2), 7, np.float32))
    warm_up.run(model, {"file": "rows.npy", "content_type": "application/x-npy"}, tmp_path)
    assert model._model.calls[0].tolist() == [[7, 7]] * 3
    model.unload()


def test_a_handler_sees_a_request_like_any_other(tmp_path: Path) -> None:
    model = load(tmp_path, HANDLE.format("{}"))
    warm_up.run(model, {"body": "x,y", "content_type": "text/csv; header=present"}, tmp_path)
    kind = "text/csv; header=present"
    assert model._model.seen == [(b"x,y", kind, {"content-type": kind}, True)]
    model.unload()


@pytest.mark.parametrize(("answer", "reason"), FAILURES.items(), ids=FAILURES)
def test_an_error_is_the_reason(tmp_path: Path, answer: str, reason: str) -> None:
    raises = answer.startswith("Inference")
    model = load(tmp_path, HANDLE.replace("return [{}]", f"raise {answer}" if raises else f"return [{answer}]"))
    with pytest.raises(ModelError, match=f"model m: its warm-up request {reason}"):
        warm_up.run(model, {"body": ""}, tmp_path)
    model.unload()


def test_a_want_of_memory_is_told_as_such(tmp_path: Path) -> None:
    model = load(tmp_path, HANDLE.replace("return [{}]", "raise MemoryError"))
    with pytest.raises(OutOfMemory, match="its warm-up request was answered 507"):
        warm_up.run(model, {"body": ""}, tmp_path)
    model.unload()


@pytest.mark.parametrize("name", ["missing", "../model.py", "/etc/passwd"])
def test_a_file_must_be_there_and_the_model_s_own(tmp_path: Path, name: str) -> None:
    model = load(tmp_path / "m", PREDICT)
    (tmp_path / "model.py").touch()
    with pytest.raises(ModelError, match=r"model m: warm_up_request: .*(No such file|is not in the model's directory)"):
        warm_up.run(model, {"file": name}, tmp_path / "m")
    model.unload()


@pytest.mark.parametrize(
    "text",
    [
        "warm_up_request = 'x'",
        "[warm_up_request]",
        "[warm_up_request]\nbody = 'x'\nfile = 'y'",
        "[warm_up_request]\nbody = 5",
        "[warm_up_request]\nbody = 'x'\ntimes = 0",
        "[warm_up_request]\nbody = 'x'\ntime = 1",
    ],
)
def test_settings_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ModelError, match=r"here: warm_up_request = .* is wrong; it must be a table"):
        parse_settings(text.encode(), "here")


def test_the_file_beats_the_class(tmp_path: Path) -> None:
    model = load(tmp_path, PREDICT)
    cls = type(model._model)
    cls.warm_up_request = {"body": "a"}
    assert ModelSettings.of(cls, tmp_path).warm_up_request == {"body": "a"}
    (tmp_path / "headrace.toml").write_text("warm_up_request = {body = 'b'}")
    assert ModelSettings.of(cls, tmp_path).warm_up_request == {"body": "b"}
    model.unload()
