"""Batches through the whole server: who runs with whom, and how many bytes are copied on the way."""

import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import Server, write_model

SIDE = (
    64  # an image is 1 x 3 x SIDE x SIDE float32: 49,152 bytes, so that it is received in its slot and run from there
)
SUM = """
import numpy as np
from headrace import Model
class Sum(Model):
    max_batch_size = 4
    max_batch_delay_ms = 60000
    def predict(self, x):
        return np.array([[len(x), row.sum()] for row in x], np.float64)
"""
ALONE = SUM.replace("max_batch_size = 4", "max_batch_size = 1")
POISON = """
import numpy as np
from headrace import Model
class Poison(Model):
    shape = (2,)
    max_batch_size = 4
    max_batch_delay_ms = 60000
    def predict(self, x):
        if (x == 666).any():
            raise ValueError("poison")
        return np.column_stack([np.full(len(x), len(x)), x.sum(axis=1)])
"""
SHORT = """
from headrace import Model
class Short(Model):
    max_batch_size = 4
    max_batch_delay_ms = 60000
    def predict(self, x):
        return x[:1]
"""
TUNED = """
from headrace import Model
class Tuned(Model):
    target_latency_ms = 5000
    def predict(self, x):
        return [len(x)] * len(x)
"""
ECHO = """
from headrace import Model
class Echo(Model):
    def handle(self, requests):
        return [request.body for request in requests]
"""
HANDLER = "def handle(data, context):\n    return [str(len(item['body'])) for item in data] if data else None\n"


@pytest.fixture(scope="module")
def server(serve_module, tmp_path_factory) -> Server:
    models = tmp_path_factory.mktemp("models")
    sources = {"sum": SUM, "alone": ALONE, "poison": POISON, "short": SHORT, "tuned": TUNED, "echo": ECHO}
    arguments = [write_model(models / name, source) for name, source in sources.items()]
    handler = models / "handler"
    (handler / "MAR-INF").mkdir(parents=True)
    (handler / "service.py").write_text(HANDLER)
    manifest = {"runtime": "python", "model": {"modelName": "handler", "handler": "service.py:handle"}}
    (handler / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    return serve_module(*arguments, f"handler={handler}", HEADRACE_WORKERS="1")


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def together(server: Server, model: str, bodies: list[bytes], content_type: str = "application/json") -> list:
    """Answers to requests that are under way at once."""

    def ask(body: bytes):
        return server.post(f"/models/{model}/invoke", body, content_type=content_type)

    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(ask, bodies))


# Who runs with whom


def test_requests_that_wait_run_as_one_batch_and_get_their_own_rows(server):
    answers = together(server, "poison", [json.dumps([[n, 1]]).encode() for n in range(4)])
    assert [answer.json()["predictions"] for answer in answers] == [[[4, n + 1]] for n in range(4)]


def test_bad_members_are_answered_alone(server):
    bodies = [b"[[1, 2]]", b"[[1, 2, 3]]", b'{"instances": [[1, "x"]]}', b"[[3, 4]]"]
    first, wrong_shape, no_number, last = together(server, "poison", bodies)
    assert (first.json()["predictions"], last.json()["predictions"]) == ([[2, 3]], [[2, 7]])
    assert (wrong_shape.status, no_number.status) == (400, 400)
    assert "(3,)" in wrong_shape.json()["message"]
    assert "$.instances[0][1]" in no_number.json()["message"]


def test_poison_hurts_one_request(server):
    answers = together(server, "poison", [b"[[1, 2]]", b"[[666, 2]]", b"[[3, 4]]", b"[[5, 6]]"])
    assert [answer.status for answer in answers] == [200, 500, 200, 200]
    assert [answer.json()["predictions"] for answer in answers if answer.status == 200] == [
        [[1, 3]],
        [[1, 7]],
        [[1, 11]],
    ]


def test_wrong_number_of_rows_is_said(server):
    for answer in together(server, "short", [b"[[1]]"] * 4):
        assert answer.status == 500
        assert "shape (1, 1) for 4 rows; it must return as many rows as it got" in answer.json()["message"]


def test_tuned_model_answers_everybody(server):
    """More batches than the tuner needs for several plans, from a crowd and from one client."""
    for _ in range(20):
        for answer in together(server, "tuned", [b"[[1], [2]]"] * 16):
            assert set(answer.json()["predictions"]) <= {2 * count for count in range(1, 17)}
    for _ in range(200):
        assert server.post("/models/tuned/invoke", b"[[1]]").json() == {"predictions": [1]}


# Bytes copied


def copies(server: Server) -> tuple[float, float]:
    """(frontend's, workers'); a copy is counted before the answer that it is for can arrive."""
    return server.metric("headrace_frontend_copied_bytes_total"), server.metric("headrace_worker_copied_bytes_total")


def images(count: int) -> list[bytes]:
    return [npy(np.full((1, 3, SIDE, SIDE), n, "f4")) for n in range(count)]


def test_large_tensors_of_a_batch_are_not_gathered(server):
    """Four bodies in neighbouring slots are one array. What the worker copies are the four answers."""
    before = copies(server)
    answers = together(server, "sum", images(4), "application/x-npy")
    after = copies(server)
    assert [answer.json()["predictions"] for answer in answers] == [[[4, n * 3 * SIDE * SIDE]] for n in range(4)]
    assert after[1] - before[1] == sum(len(answer.body) for answer in answers)


def test_lone_tensor_is_run_where_it_lies(server):
    before = copies(server)
    answer = server.post("/models/alone/invoke", images(1)[0], content_type="application/x-npy")
    assert copies(server)[1] - before[1] == len(answer.body)


def test_small_arrays_of_a_batch_are_gathered(server):
    """Four rows of 16 bytes: a copy costs less than a call each."""
    before = copies(server)
    answers = together(server, "sum", [npy(np.full((1, 4), n, "f4")) for n in range(4)], "application/x-npy")
    assert [answer.json()["predictions"] for answer in answers] == [[[4, 4 * n]] for n in range(4)]
    assert copies(server)[1] - before[1] == 4 * 16 + sum(len(answer.body) for answer in answers)


def test_numbers_in_text_are_decoded_not_copied(server):
    before = copies(server)
    answer = server.post("/models/alone/invoke", b"[[1, 2, 3]]")
    assert copies(server)[1] - before[1] == len(answer.body)


def test_answer_that_lies_in_the_slot_is_not_copied_by_the_worker(server):
    body = bytes(100_000)
    before = copies(server)
    assert server.post("/models/echo/invoke", body, content_type="application/octet-stream").body == body
    assert copies(server)[1] == before[1]


def test_small_body_is_copied_once_in_and_once_out_by_the_frontend(server):
    body = bytes(1000)
    before = copies(server)
    sock = server.connect()
    head = f"POST /models/echo/invoke HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    sock.sendall(head + body)
    received = b""
    while received.count(b"\r\n\r\n") < 1 or len(received.split(b"\r\n\r\n", 1)[1]) < len(body):
        received += sock.recv(65536)
    after = copies(server)
    assert after == (before[0] + 2 * len(body), before[1])


def test_handler_gets_a_copy_as_its_contract_says(server):
    before = copies(server)
    answer = server.post("/models/handler/invoke", bytes(1000), content_type="application/octet-stream")
    assert answer.body == b"1000"
    assert copies(server)[1] - before[1] == 1000 + len(answer.body)
