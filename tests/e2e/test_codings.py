"""Compressed bodies and answers, and npz, over sockets."""

import gzip
import io
import json
import zlib

import numpy as np
import pytest

from headrace.compression import codings
from tests.e2e.conftest import Serve, Server, write_model

ROWS = np.arange(4000, dtype=np.float32).reshape(1000, 4)
DOUBLE = """
import numpy as np
from headrace import Model

class Double(Model):
    shape = (4,)

    def predict(self, x):
        return 2 * x
"""
ECHO = """
from headrace import Model, Response

class Echo(Model):
    def handle(self, requests):
        return [Response(bytes(r.body), content_type=r.headers.get("x-want", r.content_type),
                         headers={"x-seen": ",".join(sorted(r.headers))}) for r in requests]
"""
HANDLER = """
def handle(data, context):
    if data is None:
        return None
    return [{"body": item["body"], "coding": context.get_request_header(0, "Content-Encoding")} for item in data]
"""


@pytest.fixture(scope="module")
def server(serve_module: Serve, tmp_path_factory: pytest.TempPathFactory) -> Server:
    store = tmp_path_factory.mktemp("store")
    handler = store / "handler"
    handler.mkdir()
    (handler / "service.py").write_text(HANDLER)
    (handler / "MAR-INF").mkdir()
    (handler / "MAR-INF" / "MANIFEST.json").write_text(
        json.dumps({"model": {"modelName": "handler", "handler": "service:handle"}})
    )
    specs = [write_model(store / "double", DOUBLE), write_model(store / "echo", ECHO), f"handler={handler}"]
    return serve_module(*specs, HEADRACE_COMPRESS_MIN="4KiB", HEADRACE_MAX_REQUEST="1MiB")


def predictions(body: bytes) -> np.ndarray:
    return np.asarray(json.loads(body)["predictions"], np.float32)


def instances(rows: np.ndarray = ROWS) -> bytes:
    return json.dumps({"instances": rows.tolist()}).encode()


def test_coded_bodies(server: Server) -> None:
    for name, write in {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress}.items():
        answer = server.post("/models/double/invoke", write(instances()), content_encoding=name)
        assert answer.status == 200, answer.body
        np.testing.assert_array_equal(predictions(answer.body), 2 * ROWS)
        assert "content-encoding" not in answer.headers


def test_a_bad_member_of_a_batch_is_alone(server: Server) -> None:
    """One pipelined write: they run together, and each gets its own answer."""
    sock = server.connect()
    good, bad = gzip.compress(instances(ROWS[:1])), gzip.compress(instances(ROWS[:1]))[:-3]
    head = (
        "POST /models/double/invoke HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        "Content-Encoding: gzip\r\nContent-Length: {}\r\n{}\r\n"
    )
    bodies = [good, bad, good]
    sock.sendall(
        b"".join(
            head.format(len(body), "Connection: close\r\n" if at == 2 else "").encode() + body
            for at, body in enumerate(bodies)
        )
    )
    with sock.makefile("rb") as stream:
        text = stream.read()
    assert [int(part[:3]) for part in text.split(b"HTTP/1.1 ")[1:]] == [200, 400, 200]
    assert b"was it cut off?" in text


def test_refusals(server: Server) -> None:
    answer = server.post("/models/double/invoke", b"junk", content_encoding="br")
    assert answer.status == 415
    assert answer.headers["accept-encoding"] == ", ".join(codings())
    assert json.loads(answer.body)["type"] == "UnsupportedMediaTypeException"
    answer = server.post("/models/double/invoke", b"junk", content_encoding="gzip")
    assert answer.status == 400
    assert "not gzip as its content-encoding says" in json.loads(answer.body)["message"]
    answer = server.post("/models/double/invoke", gzip.compress(bytes(2 << 20)), content_encoding="gzip")
    assert answer.status == 413
    assert "1048576 bytes (HEADRACE_MAX_REQUEST)" in json.loads(answer.body)["message"]
    answer = server.request("POST", "/models", gzip.compress(b"{}"), management=True, content_encoding="gzip")
    assert answer.status == 415
    assert server.post("/models/double/invoke", instances(ROWS[:1])).status == 200


def test_models_see_plain_bodies(server: Server) -> None:
    answer = server.post("/models/echo/invoke", gzip.compress(b"hello"), content_encoding="gzip")
    assert answer.body == b"hello"
    assert "content-encoding" not in answer.headers["x-seen"]
    assert "content-type" in answer.headers["x-seen"]
    answer = server.post("/models/handler/invoke", gzip.compress(b'{"a": 1}'), content_encoding="gzip")
    assert json.loads(answer.body) == {"body": {"a": 1}, "coding": None}


@pytest.mark.parametrize("name", codings())
def test_answers_are_compressed_when_asked(server: Server, name: str) -> None:
    plain = server.post("/models/double/invoke", instances())
    assert "content-encoding" not in plain.headers
    coded = server.post("/models/double/invoke", instances(), accept_encoding=f"br, {name}")
    assert coded.headers["content-encoding"] == name
    assert coded.headers["vary"] == "accept-encoding"
    assert int(coded.headers["content-length"]) == len(coded.body) < len(plain.body)
    # The same bytes back through the other way in.
    back = server.post("/models/echo/invoke", coded.body, content_encoding=name)
    assert back.body == plain.body


def test_answers_that_are_not_compressed(server: Server) -> None:
    small = server.post("/models/double/invoke", instances(ROWS[:1]), accept_encoding="gzip")
    assert "content-encoding" not in small.headers
    tensor = server.post("/models/double/invoke", instances(), accept_encoding="gzip", accept="application/x-npy")
    assert "content-encoding" not in tensor.headers
    np.testing.assert_array_equal(np.load(io.BytesIO(tensor.body)), 2 * ROWS)


def test_npz(server: Server) -> None:
    for write in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        write(file, ids=np.arange(3), instances=ROWS)
        answer = server.post("/models/double/invoke", file.getvalue(), content_type="application/x-npz")
        assert answer.status == 200, answer.body
        np.testing.assert_array_equal(predictions(answer.body), 2 * ROWS)
    answer = server.post("/models/double/invoke", file.getvalue()[:-1], content_type="application/x-npz")
    assert answer.status == 400
    assert "npz" in json.loads(answer.body)["message"]
