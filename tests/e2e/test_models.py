"""Models as users write them, through the whole server: bodies in, answers out, errors said clearly."""

import io
import json

import numpy as np
import pytest
from conftest import Server, wait_until, write_model

DOUBLE = """
import numpy as np
from headrace import InferenceError, Model
class Double(Model):
    shape = (3,)
    def predict(self, x):
        if (x == 13).any():
            raise InferenceError(422, "thirteen is not doubled here")
        if (x == 14).any():
            raise ValueError("a secret of the model")
        return x * 2
"""

KEEPER = """
import numpy as np
from headrace import Model
class Keeper(Model):
    max_batch_size = 1
    def load(self, directory):
        self.kept = []
    def handle(self, requests):
        (request,) = requests
        if request.query == "keep":
            self.kept.append((request.body, bytes(request.body)))
        if request.query == "drop":
            self.kept.clear()
        same = all(view == copy for view, copy in self.kept)
        return [{"kept": len(self.kept), "same": same, "readonly": request.body.readonly}]
"""

PLACE = """
from headrace import Model
class InPlace(Model):
    def handle(self, requests):
        found = []
        for request in requests:
            room = request.response_buffer(5)
            room[:] = b"12345"
            found.append(room)
        return found
"""

BIG = """
import numpy as np
from headrace import Model
class Big(Model):
    dtype = "int64"
    def predict(self, x):
        return np.tile(x.reshape(-1, 1), (1, 100_000))
"""

FACTS = """
import json, os, threading
from headrace import Model, Response
class Facts(Model):
    def handle(self, requests):
        return [Response({"id": r.id, "model": r.model_name, "q": r.query, "x": r.headers["X-Custom"],
                          "left": r.time_left(), "cpus": sorted(os.sched_getaffinity(0)), "pid": os.getpid(),
                          "omp": os.environ.get("OMP_NUM_THREADS"), "threads": threading.active_count()},
                         status=201, headers={"X-Answer": "yes", "Content-Length": "3"}) for r in requests]
"""

HANDLER = """
import os
def handle(data, context):
    if data is None:
        return None
    assert os.getcwd() == context.system_properties.get("model_dir"), os.getcwd()
    context.set_response_content_type(0, "text/plain")
    return [f"{context.model_name}:{item.get('body')}" for item in data]
"""


@pytest.fixture(scope="module")
def server(serve_module, tmp_path_factory) -> Server:
    models = tmp_path_factory.mktemp("models")
    names = {"double": DOUBLE, "keeper": KEEPER, "place": PLACE, "big": BIG, "facts": FACTS}
    arguments = [write_model(models / name, source) for name, source in names.items()]
    handler = models / "handler"
    (handler / "MAR-INF").mkdir(parents=True)
    (handler / "service.py").write_text(HANDLER)
    (handler / "MAR-INF" / "MANIFEST.json").write_text(
        json.dumps({"runtime": "python", "model": {"modelName": "handler", "handler": "service.py:handle"}})
    )
    return serve_module(*arguments, f"handler={handler}", HEADRACE_MAX_RESPONSE="20MiB")


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


ROWS = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"instances": [[1, 2, 3], [4, 5, 6]]}', "application/json"),
        (b'{"inputs": [[1.0, 2e0, 3], [4, 5, 6.0]]}', "application/json; charset=utf-8"),
        (b"[[1,2,3],[4,5,6]]", "application/json"),
        (npy(ROWS), "application/x-npy"),
        (npy(np.asfortranarray(ROWS)), "application/x-npy"),
        (npy(ROWS.astype(">f8")), "application/x-npy"),
        (b"1,2,3\r\n4,5,6\r\n", "text/csv"),
        (ROWS.tobytes(), "application/octet-stream"),
    ],
)
def test_should_decode_rows_in_every_form(server, body, kind):
    answer = server.post("/models/double/invoke", body, content_type=kind)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {"predictions": [[2, 4, 6], [8, 10, 12]]}


def test_should_answer_in_the_form_that_accept_asks_for(server):
    body = b'{"instances": [[1, 2, 3], [4, 5, 6]]}'
    as_npy = server.post("/models/double/invoke", body, accept="application/x-npy")
    assert as_npy.headers["content-type"] == "application/x-npy"
    assert np.array_equal(np.load(io.BytesIO(as_npy.body)), ROWS * 2)
    as_csv = server.post("/models/double/invoke", body, accept="text/csv")
    assert np.array_equal(np.loadtxt(io.BytesIO(as_csv.body), delimiter=",", ndmin=2), ROWS * 2)
    assert server.post("/models/double/invoke", body, accept="image/png").status == 406


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b'{"instances": [[1, 2, 3], [4, 5]]}', "application/json", 400, ["$.instances[1]"]),
        (b'{"instances": [[1, 2, "x"]]}', "application/json", 400, []),
        (b'{"instances": [[1, 2]]}', "application/json", 400, ["(3,)", "(2,)"]),
        (b'{"instances": [[1, 2, 3]', "application/json", 400, []),
        (b"{}", "application/json", 400, ["instances"]),
        (b"", "application/json", 400, []),
        (npy(ROWS)[:-1], "application/x-npy", 400, []),
        (b"\x93NUMPY\x01\x00\xff\xff", "application/x-npy", 400, []),
        (npy(np.array([object()], dtype=object)), "application/x-npy", 400, ["object"]),
        (b"1,2,3\n4,x,6\n", "text/csv", 400, ["line 2"]),
        (b"12345", "application/octet-stream", 400, ["5"]),
        (b"<x/>", "application/xml", 415, ["application/json"]),
        (b'{"instances": [[13, 2, 3]]}', "application/json", 422, ["thirteen"]),
    ],
)
def test_should_say_what_is_wrong_with_a_body_and_go_on(server, body, kind, status, words):
    answer = server.post("/models/double/invoke", body, content_type=kind)
    assert answer.status == status, answer.body
    document = answer.json()
    assert set(document) == {"code", "type", "message"}
    assert document["code"] == status
    assert all(word in document["message"] for word in words), document["message"]
    assert "Traceback" not in document["message"]
    assert server.post("/models/double/invoke", b"[[1,1,1]]").status == 200


def test_should_keep_an_exception_s_text_to_the_log(server):
    answer = server.post("/models/double/invoke", b"[[14, 1, 1]]")
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert answer.headers["x-request-id"] in answer.json()["message"]
    wait_until(lambda: server.find("a secret of the model"), "the traceback is not in the log")


def test_should_give_handlers_what_the_request_said_and_send_what_they_answer(server):
    answer = server.post("/models/facts/invoke?a=1&b=%20", b"{}", x_custom="seen")
    facts = answer.json()
    assert (answer.status, answer.headers["x-answer"]) == (201, "yes")
    assert facts["id"] == answer.headers["x-request-id"]
    assert (facts["model"], facts["q"], facts["x"]) == ("facts", "a=1&b=%20", "seen")
    assert 0 < facts["left"] <= 60
    assert facts["omp"] == str(len(facts["cpus"]))


def test_should_keep_a_held_view_valid_and_give_its_slot_back_when_it_is_dropped(server):
    for i in range(20):
        body = json.dumps({"number": i, "filler": "x" * 500}).encode()
        assert server.post("/models/keeper/invoke?keep", body).json()["readonly"] is True
    for i in range(200):
        state = server.post("/models/keeper/invoke", b"y" * 500 + str(i).encode()).json()
    assert state == {"kept": 20, "same": True, "readonly": True}
    assert server.metric("headrace_slots_leased") == 20
    server.post("/models/keeper/invoke?drop", b"{}")
    wait_until(lambda: server.metric("headrace_slots_leased") == 0, "slots stay leased")


def test_should_send_an_answer_that_was_made_in_the_slot(server):
    assert server.post("/models/place/invoke", b"{}").body == b"12345"


def test_should_give_a_larger_slot_to_an_answer_that_needs_one(server):
    for count in (1, 3):
        answer = server.post("/models/big/invoke", json.dumps([[i] for i in range(count)]).encode())
        assert answer.status == 200
        assert [row[99_999] for row in answer.json()["predictions"]] == list(range(count))
    wait_until(lambda: server.metric("headrace_slots_leased") == 0, "slots stay leased")


def test_should_refuse_an_answer_beyond_the_limit_and_say_so(server):
    answer = server.post("/models/big/invoke", json.dumps([[10**12 + i] for i in range(200)]).encode())
    assert answer.status == 500
    assert b"HEADRACE_MAX_RESPONSE" in answer.body
    assert server.post("/models/double/invoke", b"[[1,1,1]]").status == 200


def test_should_run_an_mms_handler_in_a_process_of_its_own(server):
    answer = server.post("/models/handler/invoke", b'{"a": 1}')
    assert (answer.status, answer.body) == (200, b"handler:{'a': 1}")
    assert answer.headers["content-type"].startswith("text/plain")
    assert len(server.named("worker")) >= 2
