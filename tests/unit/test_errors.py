"""errors: codes are stable and unique, control messages come back as what they were, bodies are MMS's shape."""

import json
import pickle

import pytest

from headrace import errors


def every_class() -> list[type[errors.HeadraceError]]:
    found, todo = [], [errors.HeadraceError]
    while todo:
        cls = todo.pop()
        found.append(cls)
        todo += [child for child in cls.__subclasses__() if child.__module__ == errors.__name__]
    return found


def build(cls: type[errors.HeadraceError]) -> errors.HeadraceError:
    return cls(418, "no coffee") if cls is errors.InferenceError else cls("no coffee")  # type: ignore[arg-type]


@pytest.mark.parametrize("cls", every_class())
def test_each_class_has_a_docstring_a_type_word_and_a_code_of_its_own(cls):
    assert cls.__doc__
    assert (cls.code in errors.TYPES) is (cls is not errors.InferenceError)  # its status is the model's choice
    assert [other for other in every_class() if other.code == cls.code] == [cls]


def test_every_type_word_belongs_to_a_class():
    assert set(errors.TYPES) == {cls.code for cls in every_class()} - {errors.InferenceError.code}


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (400, "BadRequestException"),
        (404, "ResourceNotFoundException"),
        (422, "BadRequestException"),
        (500, "InternalServerException"),
        (503, "ServiceUnavailableException"),
        (599, "InternalServerException"),
    ],
)
def test_the_word_for_what_a_model_raises_depends_on_the_status(status, word):
    error = errors.InferenceError(status, "no")
    assert errors.type_of(error.status, error.code) == word


@pytest.mark.parametrize("cls", every_class())
def test_a_control_message_comes_back_as_the_same_error(cls):
    error = build(cls)
    back = errors.from_message(json.loads(json.dumps(errors.to_message(error))))
    assert type(back) is cls
    assert (str(back), back.status, back.code, back.retryable) == (
        "no coffee",
        error.status,
        error.code,
        error.retryable,
    )


def test_only_overload_and_a_lost_worker_are_worth_another_try():
    assert {cls for cls in every_class() if cls.retryable} == {errors.Overloaded, errors.WorkerLost}


def test_a_model_error_carries_its_traceback_as_detail():
    message = errors.to_message(errors.ModelError("no weights", detail="Traceback ..."))
    assert message["detail"] == "Traceback ..."
    assert errors.from_message(message).detail == "Traceback ..."


def test_a_foreign_exception_becomes_internal_with_its_traceback():
    try:
        raise KeyError("weights")
    except KeyError as error:
        message = errors.to_message(error)
    assert (message["status"], message["code"], message["error"]) == (500, "internal", "KeyError: 'weights'")
    assert "test_errors.py" in message["detail"]


def test_a_memory_error_becomes_out_of_memory():
    message = errors.to_message(MemoryError())
    assert (message["status"], message["code"], message["error"]) == (507, "out_of_memory", "MemoryError")


def test_an_unknown_code_is_kept():
    error = errors.from_message({"ok": False, "error": "x", "status": 599, "code": "of_a_later_build"})
    assert (type(error), error.status, error.code) == (errors.HeadraceError, 599, "of_a_later_build")


@pytest.mark.parametrize("status", [200, 0, -1, 600, "404", None, 1e3])
def test_a_status_that_is_no_error_is_not_taken_over(status):
    assert errors.from_message({"code": "conflict", "error": "x", "status": status}).status == 409


def test_an_empty_message_is_an_internal_error():
    error = errors.from_message({})
    assert (error.status, error.code, str(error)) == (500, "internal", "no reason was given")


@pytest.mark.parametrize("status", [399, 600, 200, True, "404", 404.0])
def test_an_inference_error_refuses_what_is_no_error_status(status):
    with pytest.raises(ValueError, match="400 to 599"):
        errors.InferenceError(status, "x")


def test_an_inference_error_survives_a_process_pool():
    back = pickle.loads(pickle.dumps(errors.InferenceError(422, "too blurred")))
    assert (back.status, str(back)) == (422, "too blurred")


def test_a_body_is_indented_by_two_and_ends_in_a_newline():
    assert errors.body(404, "ModelNotFoundException", 'Model not found: "é"') == (
        '{\n  "code": 404,\n  "type": "ModelNotFoundException",\n  "message": "Model not found: \\"é\\""\n}\n'.encode()
    )


def test_a_body_survives_text_that_is_not_utf8():
    assert json.loads(errors.body(500, "X", "a\udcffb"))["message"] == "a?b"
