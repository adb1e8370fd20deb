"""A header that a model sets cannot begin a line, or an answer, of its own: the request is answered 500 with its id,
the log says which header it was, and the connection goes on in step."""

import json
import re
import socket

import pytest

from tests.e2e.conftest import Serve, Server, wait_until, write_model

NATIVE = """
from headrace import Model, Response
class Native(Model):
    def handle(self, requests):
        return [Response("fine", content_type=request.json().pop("type", None), headers=request.json()["headers"])
                for request in requests]
"""
HANDLER = """
import json
def handle(data, context):
    for index, item in enumerate(data or []):
        wanted = item["body"] if isinstance(item["body"], dict) else json.loads(item["body"])
        for name, value in wanted["headers"].items():
            context.set_response_header(index, name, value)
        if "type" in wanted:
            context.set_response_content_type(index, wanted["type"])
    return data and ["fine"] * len(data)
"""
SCRIPT = """
import json
def model_fn(directory):
    return None
def transform_fn(model, body, content_type, accept, context):
    wanted = json.loads(body)
    for name, value in wanted["headers"].items():
        context.set_response_header(0, name, value)
    return "fine", wanted.get("type", "text/plain")
"""
PLANTED = "planted: yes"
BAD = [
    *({"x-value": f"a{end}{PLANTED}"} for end in ("\r\n", "\n", "\r", "\0", "\r\n\r\nHTTP/1.1 200 OK\r\n", "\u010a")),
    *({f"x{end}{PLANTED}": "a"} for end in ("\r\n", " ", "\0", "(")),
    {"": PLANTED},
]


@pytest.fixture(scope="module")
def server(serve_module: Serve, tmp_path_factory: pytest.TempPathFactory) -> Server:
    folder = tmp_path_factory.mktemp("models")
    native = write_model(folder / "native", NATIVE)
    (folder / "mms" / "MAR-INF").mkdir(parents=True)
    manifest = {"runtime": "python", "model": {"modelName": "mms", "handler": "service.py:handle"}}
    (folder / "mms" / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    (folder / "mms" / "service.py").write_text(HANDLER)
    (folder / "script" / "code").mkdir(parents=True)
    (folder / "script" / "code" / "inference.py").write_text(SCRIPT)
    return serve_module(native, f"mms={folder / 'mms'}", f"script={folder / 'script'}", HEADRACE_WORKERS="1")


def ask(sock: socket.socket, model: str, wanted: dict[str, object]) -> tuple[int, str, bytes]:
    """Status, request id, and all bytes of the answer."""
    body = json.dumps(wanted).encode()
    head = f"POST /models/{model}/invoke HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
    sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    raw = b""
    while not (found := re.match(rb"HTTP/1\.1 (\d+) .*?content-length: (\d+)\r\n(.*?)\r\n\r\n", raw, re.DOTALL)) or (
        len(raw) < found.end() + int(found[2])
    ):
        data = sock.recv(1 << 16)
        assert data, raw
        raw += data
    assert len(raw) == found.end() + int(found[2]), raw
    identity = re.search(rb"x-request-id: (\S+)", raw)
    assert identity, raw
    return int(found[1]), identity[1].decode(), raw


@pytest.mark.parametrize("model", ["native", "mms", "script"])
def test_should_answer_500_for_a_header_that_cannot_be_sent(server: Server, model: str) -> None:
    with server.connect() as sock:
        cases: list[dict[str, object]] = [{"headers": headers} for headers in BAD]
        cases.append({"headers": {}, "type": f"a/b\r\n{PLANTED}"})
        for case in cases:
            status, identity, raw = ask(sock, model, case)
            assert status == 500, (case, raw)
            assert b"\nplanted" not in raw, raw
            assert raw.count(b"HTTP/1.1") == 1, raw
            line = wait_until(lambda wanted=identity: server.find(f".*request={wanted}.*"), f"no log line for {case}")[
                0
            ]
            assert "header" in line, line
        status, _, raw = ask(sock, model, {"headers": {"x-value": "caf\u00e9; a=b"}})
        assert status == 200, raw
        assert b"\r\nx-value: caf\xe9; a=b\r\n" in raw
        assert raw.endswith(b"fine")
