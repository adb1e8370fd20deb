"""Who may ask for what: the bearer token, and paths that stay inside the model store."""

import os
import signal
from pathlib import Path

from tests.e2e.conftest import Serve, Server, wait_until, write_model

ECHO = """
from headrace import Model
class Echo(Model):
    def handle(self, requests):
        return [bytes(request.body) for request in requests]
"""
TOKEN = "0123456789abcdef-secret"


def write_token(path: Path, token: str, mode: int = 0o600) -> str:
    path.write_text(token + "\n")
    path.chmod(mode)
    return str(path)


def test_management_asks_for_the_token_and_inference_does_not(serve: Serve, tmp_path: Path) -> None:
    file = write_token(tmp_path / "token", TOKEN)
    server = serve(write_model(tmp_path / "echo", ECHO), HEADRACE_TOKEN_FILE=file, HEADRACE_WORKERS="1")

    def status(authorization: str | None, path: str = "/models") -> int:
        headers = {} if authorization is None else {"authorization": authorization}
        return server.request("GET", path, management=True, **headers).status

    refused = server.request("GET", "/models", management=True)
    assert (refused.status, refused.json()["type"]) == (401, "UnauthorizedException")
    assert refused.headers["www-authenticate"] == 'Bearer realm="headrace"'
    for wrong in ("", "Bearer", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"):
        assert status(wrong) == 401, wrong
    assert status(f"Bearer {TOKEN[:-1]}X") == 401
    assert status(f"Bearer {TOKEN}") == status(f"bearer  {TOKEN} ") == 200
    assert status(f"Bearer {TOKEN}", "/metrics") == 200
    assert status(None, "/metrics") == 401
    assert status(None, "/health/ready") == 200
    with server.connect() as client:  # two lines are one too many
        line = b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"
        client.sendall(b"GET /models HTTP/1.1\r\nHost: x\r\n" + line * 2 + b"Connection: close\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 4")
    assert server.post("/models/echo/invoke", b"[1]").status == 200
    assert TOKEN not in server.log
    # Another token in the same file holds from SIGHUP on; one that cannot be used changes nothing.
    write_token(tmp_path / "token", TOKEN[::-1], 0o644)
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.find("token.read "), "not read again")
    assert server.find("token.exposed .*mode=644")
    assert status(f"Bearer {TOKEN}") == 401
    assert status(f"Bearer {TOKEN[::-1]}") == 200
    write_token(tmp_path / "token", "short")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.find("token.kept .*16 to 4096 characters"), "not refused")
    assert status(f"Bearer {TOKEN[::-1]}") == 200


def test_inference_asks_for_it_too_where_that_is_wished(serve: Serve, tmp_path: Path) -> None:
    server = serve(
        write_model(tmp_path / "echo", ECHO),
        HEADRACE_TOKEN_FILE=write_token(tmp_path / "token", TOKEN),
        HEADRACE_TOKEN_SCOPE="all",
        HEADRACE_WORKERS="1",
    )
    assert server.post("/models/echo/invoke", b"[1]").status == 401
    assert server.post("/invocations", b"[1]").status == 401
    assert server.post("/models/echo/invoke", b"[1]", authorization=f"Bearer {TOKEN}").body == b"[1]"
    assert server.request("GET", "/ping").status == 200
    (frontend,) = server.named("headrace: frontend 0")
    frontend.kill()  # its successor asks for it as well
    wait_until(lambda: server.named("headrace: frontend 0") not in ([], [frontend]), "no successor")
    assert server.post("/models/echo/invoke", b"[1]").status == 401


def test_a_token_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    for content, why in (("", "16 to 4096 characters"), ("two words of a token", "one token of letters")):
        server = Server(HEADRACE_TOKEN_FILE=write_token(tmp_path / "token", content))
        assert server.process.wait(60) == 1
        server.reader.join(60)
        assert server.find(f"boot_failed .*HEADRACE_TOKEN_FILE=.*{why}")
    server = Server(HEADRACE_TOKEN_FILE=str(tmp_path / "none"))
    assert server.process.wait(60) == 1


def test_models_come_from_the_store_only(serve: Serve, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    write_model(tmp_path / "outside", ECHO)
    write_model(store / "inside", ECHO)
    os.symlink(tmp_path / "outside", store / "link")
    os.symlink(store / "inside", store / "alias")
    server = serve(write_model(tmp_path / "echo", ECHO), "--model-store", str(store), HEADRACE_WORKERS="1")
    for url in ("../outside", "link", "inside/../../outside", str(tmp_path / "outside"), "%2e%2e/outside", "link/."):
        answer = server.manage("POST", "/models", {"url": url, "model_name": "m"})
        assert answer.status in (400, 404), (url, answer.body)
    assert server.manage("POST", "/models", {"url": "alias", "model_name": "m"}).status == 200


def test_the_management_api_listens_on_the_loopback_address_unless_told_otherwise(serve: Serve, tmp_path: Path) -> None:
    server = serve(write_model(tmp_path / "echo", ECHO), HEADRACE_HOST="0.0.0.0", HEADRACE_WORKERS="1")
    assert server.find(r" management=http://127\.0\.0\.1:")
