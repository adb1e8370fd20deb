"""What clients send and what models make of it stays out of the log: a failure is told with the lines of code that it
went through and the exception's own words, and with no header, query, body or local variable."""

import json
from pathlib import Path

from tests.e2e.conftest import Serve, wait_until, write_model

NATIVE = """
from headrace import Model
class Native(Model):
    def handle(self, requests):
        found = [(bytes(request.body), dict(request.headers), request.query) for request in requests]
        return [text for text in found if fail(text)]
def fail(text):
    raise RuntimeError("native is at fault")
"""
HANDLER = """
def handle(data, context):
    if data is not None:
        found = [(item, context.get_all_request_header(i)) for i, item in enumerate(data)]
        raise RuntimeError("mms is at fault")
"""
SCRIPT = """
def model_fn(directory):
    return None
def predict_fn(data, model, context):
    found = data, context.get_all_request_header(0)
    raise RuntimeError("script is at fault")
"""
SECRETS = ("in-the-body", "in-a-header", "in-the-query", "in-a-cookie", "in-a-malformed-head", "in-a-url")


def test_should_log_failures_without_what_was_sent(serve: Serve, tmp_path: Path) -> None:
    native = write_model(tmp_path / "native", NATIVE)
    (tmp_path / "mms" / "MAR-INF").mkdir(parents=True)
    manifest = {"runtime": "python", "model": {"modelName": "mms", "handler": "service.py:handle"}}
    (tmp_path / "mms" / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    (tmp_path / "mms" / "service.py").write_text(HANDLER)
    (tmp_path / "script" / "code").mkdir(parents=True)
    (tmp_path / "script" / "code" / "inference.py").write_text(SCRIPT)
    server = serve(native, f"mms={tmp_path / 'mms'}", f"script={tmp_path / 'script'}", HEADRACE_WORKERS="1")
    for model in ("native", "mms", "script"):
        path = f"/models/{model}/invoke?key=in-the-query"
        answer = server.post(path, b'["in-the-body"]', x_api_key="in-a-header", cookie="in-a-cookie")
        assert answer.status >= 500, answer.body
        wait_until(lambda name=model: server.find(f"{name} is at fault"), "the failure is not logged")
        assert server.find("raise RuntimeError"), "the line of code is not logged"
    with server.connect() as sock:
        sock.sendall(b"GET /in-a-malformed-head HTTP/1.1\r\nin-a-malformed-head\r\n\r\n")
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 400 ")
    url = "http://127.0.0.1:1/m.mar?X-Amz-Signature=in-a-url"
    assert server.manage("POST", "/models", {"url": url, "model_name": "m"}).status == 400
    for secret in SECRETS:
        assert secret not in server.log
