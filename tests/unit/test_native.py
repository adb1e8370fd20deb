"""Native models: bodies in, arrays through predict(), answers out, and one bad member that fails alone."""

import gc
import io
import json
import re
import sys
import textwrap

import numpy as np
import pytest
from local_request import LocalRequest

from headrace import media, native
from headrace.answers import NotAcceptable, negotiate
from headrace.errors import (
    DecodeError,
    HeadraceError,
    InferenceError,
    OutOfMemory,
    ShapeMismatch,
    UnsupportedMediaType,
)
from headrace.loaders import Options, load

SUM = """
    calls = []
    def predict(self, x):
        self.calls.append(x.shape)
        return x.sum(axis=tuple(range(1, x.ndim)))
"""


@pytest.fixture
def model(tmp_path):
    """Loads a model class of this body; undone at the end."""
    opened = []

    def make(body, **options):
        source = "import numpy as np\nfrom headrace import InferenceError, Model, Response\n\nclass M(Model):\n"
        (tmp_path / "model.py").write_text(source + textwrap.indent(textwrap.dedent(body).strip("\n"), "    ") + "\n")
        opened.append(load(tmp_path, None, Options("m", **options), 500 + len(opened)))
        return opened[-1]

    yield make
    for servable in opened:
        servable.unload()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def run(servable, *requests):
    """Answers in one batch; returns the requests. Nothing may be left that refers to their bodies."""
    for request in requests:
        request.servable = servable
    servable.run(list(requests))
    assert all(request.status is not None for request in requests), "a request without an answer"
    return requests


def calls(servable):
    """Shapes that predict() has seen since this was last asked."""
    seen = servable._model.calls
    found = list(seen)
    seen.clear()
    return found


# Bodies


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ({"instances": [[1, 2], [3, 4.5]]}, "application/json"),
        ({"inputs": [[1, 2], [3, 4.5]]}, "application/json"),
        ([[1, 2], [3, 4.5]], "application/json"),
        ({"signature_name": "x", "instances": [["1", 2], [True, 6.5]]}, "application/json"),
        (b"1,2\n3,4.5\n", "text/csv"),
        (b"2019,2020\n1,2\n3,4.5\n", "text/csv; charset=utf-8; Header=present"),
        (npy(np.array([[1, 2], [3, 4.5]], "f4")), "application/x-npy"),
        (npy(np.array([[1, 2], [3, 4.5]], "f8")), "application/x-npy"),
        (np.array([[1, 2], [3, 4.5]], "f4").tobytes(), "application/octet-stream"),
    ],
)
@pytest.mark.parametrize("company", [0, 1])
def test_body_of_every_kind(model, body, content_type, company):
    servable = model("shape = (2,)\n" + textwrap.dedent(SUM))
    expected = [3, 7.5]
    others = [LocalRequest([[10, 20]]) for _ in range(company)]
    request, *others = run(servable, LocalRequest(body, content_type), *others)
    assert request.predictions == expected
    assert [other.predictions for other in others] == [[30]] * company
    assert calls(servable) == [(2 + company, 2)]


def test_lone_npy_body_is_a_view_on_the_request(model):
    servable = model("def predict(self, x):\n    self.flags = x.flags.writeable, x.base is not None\n    return x * 2")
    body = npy(np.arange(6, dtype="f4").reshape(2, 3))
    request = LocalRequest(body, "application/x-npy", accept="application/x-npy")
    start = np.frombuffer(request.body, "u1").__array_interface__["data"][0]
    servable._function = lambda x, inner=servable._function: (
        places.append(x.__array_interface__["data"][0]),
        inner(x),
    )[1]
    places = []
    run(servable, request)
    assert places == [start + len(body) - 24]
    assert np.load(io.BytesIO(request.answer)).tolist() == [[0, 2, 4], [6, 8, 10]]
    assert servable._model.flags == (False, True)


def test_run_keeps_no_view_on_a_body(model):
    servable = model("shape = (2,)\n" + textwrap.dedent(SUM))
    body = bytearray(npy(np.zeros((3, 2), "f4")))
    for kind in ("application/x-npy", "application/octet-stream"):
        for company in (0, 1):
            request = LocalRequest(b"", kind)
            request._body = body if kind.endswith("npy") else body[-24:]
            held = request._body
            others = [LocalRequest([[1, 2]]) for _ in range(company)]
            run(servable, request, *others)
            del request, others
            held.append(0)  # BufferError while anybody has a view
            held.pop()


def test_failure_keeps_no_view_on_a_body_even_if_the_model_keeps_the_exception(model):
    servable = model("error = InferenceError(418, 'tea')\ndef predict(self, x):\n    raise self.error")
    body = bytearray(npy(np.zeros((3, 2), "f4")))
    request = LocalRequest(b"", "application/x-npy")
    request._body = body
    run(servable, request)
    assert (request.status, request.message) == (418, "tea")
    del request
    body.append(0)


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (LocalRequest(b"{"), DecodeError, ""),
        (LocalRequest(b""), DecodeError, ""),
        (LocalRequest({"instances": [["a", 2]]}), DecodeError, r"\$\.instances\[0\]\[0\] is a string"),
        (LocalRequest({"instances": [{"a": 2}]}), DecodeError, r"\$\.instances\[0\] is an object"),
        (LocalRequest({"rows": [[1, 2]]}), DecodeError, ""),
        (LocalRequest(b"1,2\n3\n", "text/csv"), (DecodeError, ShapeMismatch), ""),
        (LocalRequest(b"1,x\n", "text/csv"), DecodeError, ""),
        (LocalRequest([[1, 2, 3]]), ShapeMismatch, r"model m takes rows of shape \(2,\), got rows of shape \(3,\)"),
        (LocalRequest([1, 2]), ShapeMismatch, r"shape \(2,\), got rows of shape \(\)"),
        (LocalRequest([[1, 2], [3]]), (DecodeError, ShapeMismatch), ""),
        (LocalRequest(npy(np.float32(1)), "application/x-npy"), (DecodeError, ShapeMismatch), ""),
        (LocalRequest(npy(np.array([["a", "b"]])), "application/x-npy"), (DecodeError, ShapeMismatch), ""),
        (LocalRequest(npy(np.zeros((1, 2), "c8")), "application/x-npy"), (DecodeError, ShapeMismatch), ""),
        (LocalRequest(b"\x93NUMPY", "application/x-npy"), DecodeError, ""),
        (LocalRequest(b"123", "application/octet-stream"), (DecodeError, ShapeMismatch), ""),
        (
            LocalRequest(b"x", "image/png"),
            UnsupportedMediaType,
            "image/png is not read by model m; send one of application/json",
        ),
        (LocalRequest(b"x", ""), UnsupportedMediaType, "content-type none"),
        (LocalRequest([[1, 2]], accept="image/png"), NotAcceptable, "accept 'image/png' leaves no form"),
    ],
)
@pytest.mark.parametrize("company", [0, 2])
def test_bad_member_fails_alone(model, request_, error, message, company):
    servable = model("shape = (2,)\n" + textwrap.dedent(SUM))
    request_.status = request_.view = None
    others = [LocalRequest([[1, 2]]) for _ in range(company)]
    run(servable, *others[:1], request_, *others[1:])
    assert request_.status == request_.error.status
    assert isinstance(request_.error, error), request_.error
    assert re.search(message, request_.message)
    assert [other.predictions for other in others] == [[3]] * company


def test_octet_stream_needs_a_declared_shape(model):
    servable = model(SUM)
    (request,) = run(servable, LocalRequest(b"1234", "application/octet-stream"))
    assert (request.status, "octet-stream" in request.message.split("send one of")[1]) == (415, False)


# Batches


def test_members_of_different_shapes_run_in_groups(model):
    servable = model(SUM)
    bodies = [[[1, 2]], [[1, 2, 3]], [[3, 4], [5, 6]], [7], [[4, 5, 6]]]
    requests = run(servable, *map(LocalRequest, bodies))
    assert [request.predictions for request in requests] == [[3], [6], [7, 11], [7], [15]]
    assert sorted(calls(servable)) == [(1,), (2, 3), (3, 2)]


def test_calls_take_at_most_max_batch_size_rows_and_never_split_a_request(model):
    servable = model("max_batch_size = 4\n" + textwrap.dedent(SUM))
    counts = [1, 2, 1, 3, 2, 9, 1]
    requests = run(servable, *(LocalRequest([[count, 0]] * count) for count in counts))
    assert [request.predictions for request in requests] == [[count] * count for count in counts]
    assert calls(servable) == [(4, 2), (3, 2), (2, 2), (9, 2), (1, 2)]


@pytest.mark.parametrize(
    "empty", [([], "application/json"), (b"", "text/csv"), (npy(np.zeros((0, 2), "f4")), "application/x-npy")], ids=str
)
def test_request_without_rows_gets_an_answer_without_rows_and_never_meets_the_model_alone(model, empty):
    servable = model("shape = (2,)\n" + textwrap.dedent(SUM))
    assert run(servable, LocalRequest(*empty))[0].predictions == []
    assert calls(servable) == []
    first, second, third = run(servable, LocalRequest(*empty), LocalRequest([[1, 2]]), LocalRequest(*empty))
    assert (first.predictions, second.predictions, third.predictions) == ([], [3], [])
    assert calls(servable) == [(1, 2)]


def test_reused_batch_memory_is_not_seen_through_what_a_model_keeps(model):
    servable = model("kept = []\ndef predict(self, x):\n    self.kept.append(x)\n    return x")
    for value in (1.0, 2.0, 3.0):
        run(servable, LocalRequest([[value, value]]))
        run(servable, LocalRequest([[value, value]]), LocalRequest([[value, value]]))
    assert [x.tolist() for x in servable._model.kept] == [
        rows for value in (1.0, 2.0, 3.0) for rows in ([[value] * 2], [[value] * 2] * 2)
    ]


PICKY = """
def predict(self, x):
    if (x == 666).any():
        {what}
    return x
"""


@pytest.mark.parametrize(
    ("what", "status", "message"),
    [
        ("raise InferenceError(422, 'no beasts')", 422, "no beasts"),
        ("raise ValueError('secret')", 500, "internal error in model m, request "),
        ("raise SystemExit", 500, "internal error in model m, request "),
        ("raise MemoryError", 507, "out of memory in model m"),
    ],
)
def test_culprit_fails_alone(model, what, status, message, capfd):
    servable = model(PICKY.format(what=what))
    good, bad, other = run(servable, LocalRequest([[1]]), LocalRequest([[666]]), LocalRequest([[2], [3]]))
    assert good.predictions == [[1]]
    assert other.predictions == [[2], [3]]
    assert bad.status == status
    assert bad.message.startswith(message)
    log = capfd.readouterr().err
    if status == 422:
        assert log == ""
    else:
        assert log.count("traceback=") == 1
        assert bad.id in log
        assert "native.py" not in log
    if status == 500:
        assert bad.message.endswith(bad.id)


def test_batch_fails_whole_where_retries_are_off(model, capfd):
    servable = model("retry_members = False\n" + PICKY.format(what="1 / 0"))
    requests = run(servable, LocalRequest([[1]]), LocalRequest([[666]]))
    assert [request.status for request in requests] == [500, 500]
    assert capfd.readouterr().err.count("traceback=") == 1


def test_one_traceback_is_logged_for_a_batch_that_fails_all_over(model, capfd):
    servable = model("def predict(self, x):\n    raise OSError('disk')")
    requests = run(servable, *(LocalRequest([[1]]) for _ in range(5)))
    assert {request.status for request in requests} == {500}
    log = capfd.readouterr().err
    assert log.count("traceback=") == 1
    assert all(request.id in log for request in requests)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("x[:1]", "predict() returned an array of shape (1, 1) for 3 rows; it must return as many rows as it got"),
        ("3.5", "predict() returned one float64 without a first axis for 3 rows"),
        ("None", "predict() returned one object without a first axis"),
        ("[[1], [2, 3], [4]]", "predict() returned list, which makes no array"),
    ],
)
def test_result_that_is_not_one_row_for_each_is_the_models_error(model, result, message):
    servable = model(f"def predict(self, x):\n    return {result}")
    for request in run(servable, LocalRequest([[1]]), LocalRequest([[2], [3]])):
        assert request.status == 500
        assert request.message.startswith(f"model m: {message}")


def test_unanswerable_batch_is_not_asked_again(model):
    servable = model(
        "calls = []\ndef predict(self, x):\n    self.calls.append(len(x))\n    return x.sum(keepdims=True)[0]"
    )
    requests = run(servable, LocalRequest([[1]]), LocalRequest([[2]]))
    assert [request.status for request in requests] == [500, 500]
    assert calls(servable) == [2]


# Answers


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("x", [[1.0, 2.5]]),
        ("x.astype('f8')", [[1.0, 2.5]]),
        ("x.astype('i8')", [[1, 2]]),
        ("x > 2", [[False, True]]),
        ("x[:, ::-1]", [[2.5, 1.0]]),
        ("np.asfortranarray(np.repeat(x, 3, 1))", [[1.0, 1.0, 1.0, 2.5, 2.5, 2.5]]),
        ("x.tolist()", [[1.0, 2.5]]),
        ("['cat'] * len(x)", ["cat"]),
        ("np.array([{'label': 'cat', 'score': np.float32(.5)}] * len(x))", [{"label": "cat", "score": 0.5}]),
        ("x[:, None, :, None]", [[[[1.0], [2.5]]]]),
    ],
)
def test_result_as_json(model, result, expected):
    servable = model(f"def predict(self, x):\n    return {result}")
    (request,) = run(servable, LocalRequest([[1, 2.5]]))
    assert request.predictions == expected
    assert request.answer_kind == media.JSON


@pytest.mark.parametrize("accept", ["application/x-npy", "text/csv", "application/json"])
def test_answer_by_accept(model, accept):
    servable = model("def predict(self, x):\n    return x * 2")
    first, second = run(servable, LocalRequest([[1, 2]], accept=accept), LocalRequest([[3, 4]]))
    assert media.EXACT[accept] == first.answer_kind
    read = {
        "application/x-npy": lambda b: np.load(io.BytesIO(b)).tolist(),
        "text/csv": lambda b: [[float(v) for v in line.split(",")] for line in b.decode().split()],
        "application/json": lambda b: json.loads(b)["predictions"],
    }
    assert read[accept](first.answer) == [[2, 4]]
    assert second.predictions == [[6, 8]]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/html, application/json;q=0.9", media.JSON),
        ("application/json;q=0.5, text/csv", media.CSV),
        ("text/html, */*;q=0.1", media.JSON),
        ("TEXT/*", media.CSV),
        ("application/x-npy; q=1, application/json; q=1", media.NPY),
        ("application/json;q=x, text/csv;q=0.1", media.CSV),
    ],
)
def test_negotiation(accept, kind):
    assert negotiate(accept) == kind


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "", "image/*"])
def test_accept_that_leaves_nothing(accept):
    with pytest.raises(NotAcceptable, match="ask for one of"):
        negotiate(accept)


def test_strings_cannot_be_npy(model):
    servable = model("def predict(self, x):\n    return ['cat'] * len(x)")
    (request,) = run(servable, LocalRequest([[1]], accept="application/x-npy"))
    assert (request.status, "only be answered as JSON" in request.message) == (500, True)


@pytest.mark.parametrize("room", [0, 1 << 20])
def test_large_answer_is_made_in_the_slot_where_there_is_room(model, room):
    servable = model("def predict(self, x):\n    return np.tile(x, (1, 5000))")
    (request,) = run(servable, LocalRequest([[1, 2.25]], room=room))
    assert request.predictions == [[1, 2.25] * 5000]
    assert request.in_place == bool(room)


def test_declared_dtype_is_what_predict_gets(model):
    servable = model("dtype = np.int64\ndef predict(self, x):\n    return [str(x.dtype)] * len(x)")
    for request in run(
        servable, LocalRequest([[1, 2]]), LocalRequest(npy(np.array([[1, 2]], "i4")), "application/x-npy")
    ):
        assert request.predictions == ["int64"]
    (request,) = run(servable, LocalRequest(npy(np.array([[1.5]])), "application/x-npy"))
    assert (request.status, "int64" in request.message) == (400, True)


# handle()


@pytest.mark.parametrize(
    ("expression", "kind", "fields", "answer"),
    [
        ("b'ab'", media.RAW, b"", b"ab"),
        ("memoryview(b'abcd')[::2]", media.RAW, b"", b"ac"),
        ("'é'", media.OTHER, b"content-type: text/plain; charset=utf-8\r\n", "é".encode()),
        ("{'a': np.arange(2), 'b': np.float32(.5)}", media.JSON, b"", b'{"a":[0,1],"b":0.5}'),
        ("np.arange(2)", media.JSON, b"", b'{"predictions":[0,1]}'),
        ("None", media.JSON, b"", b"null"),
        ("Response(b'x', content_type='text/csv')", media.CSV, b"", b"x"),
        ("Response({'a': 1}, 201, headers={'X-A': 'b c'})", media.JSON, b"X-A: b c\r\n", b'{"a":1}'),
        ("Response('<p>', content_type='text/html')", media.OTHER, b"content-type: text/html\r\n", b"<p>"),
        ("Response(np.arange(2), content_type='text/csv')", media.CSV, b"", b"0\n1\n"),
        ("request.body", media.RAW, b"", b'{"n": 1}'),
        ("str(request.json()['n'])", media.OTHER, b"content-type: text/plain; charset=utf-8\r\n", b"1"),
    ],
)
def test_result_of_handle(model, expression, kind, fields, answer):
    servable = model(f"def handle(self, requests):\n    return [{expression} for request in requests]")
    for request in run(servable, LocalRequest({"n": 1}), LocalRequest({"n": 1})):
        assert (request.answer_kind, request.fields, request.answer) == (kind, fields, answer)
        assert request.status == (201 if "201" in expression else 200)


def test_array_of_a_request(model):
    servable = model(
        "shape = (2,)\ndef handle(self, requests):\n    arrays = [r.array() for r in requests]\n"
        "    return [{'rows': a, 'dtype': str(a.dtype)} for a in arrays]"
    )
    bodies = [
        LocalRequest([[1, 2]]),
        LocalRequest(npy(np.array([[1, 2]], "f8")), "application/x-npy"),
        LocalRequest(b"1,2\n", "text/csv"),
    ]
    for request in run(servable, *bodies):
        assert json.loads(request.answer) == {"rows": [[1, 2]], "dtype": "float32"}


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [(b"{", "application/json", 400), ([[1]], "application/json", 400), (b"", "a/b", 415)],
)
def test_array_of_a_bad_request_answers_the_client(model, body, content_type, status):
    servable = model("shape = (2,)\ndef handle(self, requests):\n    return [r.array() for r in requests]")
    bad, good = run(servable, LocalRequest(body, content_type), LocalRequest([[1, 2]]))
    assert (bad.status, good.predictions) == (status, [[1, 2]])


def test_exception_among_the_results_fails_only_its_own(model, capfd):
    servable = model(
        "def handle(self, requests):\n    return [InferenceError(409, 'taken'), 'fine', KeyError('secret'), object()]"
    )
    taken, fine, secret, odd = run(servable, *(LocalRequest({}) for _ in range(4)))
    assert (taken.status, taken.message) == (409, "taken")
    assert fine.answer == b"fine"
    assert (secret.status, secret.message) == (500, f"internal error in model m, request {secret.id}")
    assert odd.status == 500
    assert "object cannot be said in JSON" in odd.message
    assert "KeyError" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("[1]", "handle() returned 1 answers to 2 requests"),
        ("'ab'", "handle() returned str; it must return a list of answers"),
        ("None", "handle() returned NoneType"),
    ],
)
def test_results_that_do_not_match_fail_all(model, result, message):
    servable = model(f"def handle(self, requests):\n    return {result}")
    for request in run(servable, LocalRequest({}), LocalRequest({})):
        assert request.status == 500
        assert request.message.startswith(f"model m: {message}")


def test_bad_header_fails_its_own_request(model):
    servable = model(
        "def handle(self, requests):\n"
        "    return [Response('x', headers={'a b': 'c'}), Response('x', headers={'a': 'b\\r\\nc'}), 'y']"
    )
    name, value, good = run(servable, *(LocalRequest({}) for _ in range(3)))
    assert (name.status, value.status, good.answer) == (500, 500, b"y")
    assert (name.message, value.message) == (
        "model m: header name 'a b' is not a token as RFC 9110 has it",
        "model m: the value of header a has U+000D; controls and what latin-1 lacks cannot be sent",
    )


def test_handle_that_raises_is_asked_again_for_each(model):
    servable = model(
        "def handle(self, requests):\n    if any(r.json() == 6 for r in requests): raise InferenceError(400, 'six')\n"
        "    return ['ok'] * len(requests)"
    )
    assert [r.status for r in run(servable, LocalRequest(5), LocalRequest(6), LocalRequest(7))] == [200, 400, 200]


# Memory


def test_requests_leave_nothing(model):
    servable = model("shape = (2,)\n" + PICKY.format(what="raise ValueError"))

    def batches():
        run(servable, LocalRequest([[1, 2]]))
        run(servable, LocalRequest([[1, 2]]), LocalRequest([[3, 4]]), LocalRequest(b"{"), LocalRequest([[1]]))
        run(servable, LocalRequest(npy(np.zeros((2, 2), "f4")), "application/x-npy"))

    for _ in range(20):
        batches()
    gc.collect()
    objects, blocks = len(gc.get_objects()), sys.getallocatedblocks()
    for _ in range(300):
        batches()
    gc.collect()
    assert len(gc.get_objects()) - objects < 20
    assert sys.getallocatedblocks() - blocks < 200


def test_buffer_that_grew_large_is_given_back(model):
    servable = model("def predict(self, x):\n    return x[:, 0]")
    run(servable, LocalRequest([[1, 2]]))
    buffer = native._buffers[servable._buffer_key]
    body = b"[[" + b"1," * (6 << 20) + b"1]]"
    (request,) = run(servable, LocalRequest(body))
    assert request.predictions == [1]
    assert native._buffers.get(servable._buffer_key) is not buffer


def test_models_take_turns_with_one_buffer_and_none_sees_anothers_rows(model):
    keeps = "kept = []\ndef predict(self, x):\n    self.kept.append(x)\n    return x"
    first, second = model(keeps), model("def predict(self, x):\n    return x")
    for value in (1, 2):
        run(first, LocalRequest([[value]]))
        (request,) = run(second, LocalRequest([[value + 10]]))
        assert request.predictions == [[value + 10]]
    assert [x.tolist() for x in first._model.kept] == [[[1]], [[2]]]
    assert first._buffer_key == second._buffer_key


def test_error_classes_carry_their_status():
    assert (NotAcceptable.status, OutOfMemory.status, HeadraceError.status) == (406, 507, 500)
    assert InferenceError(418, "tea").status == 418


# Large rows that do not lie at one stride


SLOW_SUM = """
    import time
    calls = []
    def predict(self, x):
        self.time.sleep(0.01)
        self.calls.append(x.shape)
        return x.sum(axis=1)
"""


def apart(count=3):
    """Requests of one large row each, at places in one memory that have no common stride."""
    bodies = [npy(np.full((1, 4096), number, "f4")) for number in range(count)]
    room = step = 64 * (len(bodies[0]) // 64 + 1)
    memory = bytearray(room * (count + 1) ** 2)
    requests = []
    for number, body in enumerate(bodies):
        start = number * room + number**2 * step
        memory[start : start + len(body)] = body
        requests.append(LocalRequest(memoryview(memory)[start : start + len(body)].toreadonly(), "application/x-npy"))
    return requests


def test_large_rows_that_lie_apart_take_several_calls_of_an_unknown_model(model):
    servable = model(SUM)
    requests = run(servable, *apart())
    assert sorted(calls(servable)) == [(1, 4096), (2, 4096)]
    assert [json.loads(request.answer) for request in requests] == [{"predictions": [4096 * n]} for n in range(3)]
    assert not any(hasattr(request, "copied") for request in requests)


def test_large_rows_that_lie_apart_are_gathered_for_a_model_whose_calls_cost_more(model):
    servable = model(SLOW_SUM)
    run(servable, *apart(1))
    calls(servable)
    requests = run(servable, *apart())
    assert calls(servable) == [(3, 4096)]
    assert [json.loads(request.answer) for request in requests] == [{"predictions": [4096 * n]} for n in range(3)]
    assert [request.copied for request in requests] == [16384] * 3
