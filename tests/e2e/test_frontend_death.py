"""A frontend that dies: what its requests had in the workers' hands, and what waited for them there."""

import socket
from pathlib import Path

from conftest import ECHO, Serve, Server, wait_until, write_model

# Keeps a view of the body of "keep ...", tells it, lets it go.
KEEPER = """
from headrace import Model
class Keeper(Model):
    kept = None
    def handle(self, requests):
        for request in requests:
            word = bytes(request.body).partition(b" ")[0]
            if word == b"keep":
                Keeper.kept = request.body
            elif word == b"drop":
                Keeper.kept = None
        return [b"" if Keeper.kept is None else bytes(Keeper.kept) for _ in requests]
"""
# One request at a time, each of which waits for the file `go` and leaves its name behind.
NAMED = """
import time
from headrace import Model
class Named(Model):
    max_batch_size = 1
    def load(self, directory):
        self.directory = directory
    def handle(self, requests):
        (request,) = requests
        (self.directory / ("ran-" + bytes(request.body).decode())).touch()
        while not (self.directory / "go").exists():
            time.sleep(0.005)
        return [b"done"]
"""


def replace_frontend(server: Server) -> None:
    (frontend,) = server.named("headrace: frontend 0")
    frontend.kill()
    wait_until(lambda: len(server.log.split("frontend.up")) > 2, "no new frontend")


def segments(server: Server) -> int:
    """Mappings of frontends' segments in the worker: two for each."""
    (worker,) = server.named("headrace: worker 0")
    return Path(f"/proc/{worker.pid}/maps").read_text().count("headrace-segment")


def test_a_view_that_a_model_holds_outlives_the_frontend_that_it_came_by(serve: Serve, tmp_path: Path) -> None:
    server = serve(write_model(tmp_path / "keeper", KEEPER), HEADRACE_WORKERS="1")
    kept = b"keep " + b"k" * 100_000
    assert server.post("/models/keeper/invoke", kept).body == kept
    replace_frontend(server)
    assert server.post("/models/keeper/invoke", b"another " + b"x" * 100_000).body == kept
    assert segments(server) == 4
    assert server.post("/models/keeper/invoke", b"drop").body == b""
    wait_until(lambda: segments(server) == 2, "the dead frontend's memory stays")


def test_what_waited_for_a_worker_is_not_computed_for_a_dead_frontend(serve: Serve, tmp_path: Path) -> None:
    server = serve(write_model(tmp_path / "named", NAMED), write_model(tmp_path / "echo", ECHO), HEADRACE_WORKERS="1")
    clients = []
    for name in ("first", "second", "third"):
        clients.append(socket.create_connection(("127.0.0.1", server.port)))
        head = f"POST /models/named/invoke HTTP/1.1\r\nhost: x\r\ncontent-length: {len(name)}\r\n\r\n"
        clients[-1].sendall(head.encode() + name.encode())
    directory = tmp_path / "named"
    wait_until(lambda: list(directory.glob("ran-*")), "no request was begun")
    replace_frontend(server)
    (directory / "go").touch()
    assert server.post("/models/echo/invoke", b"[1]").body == b"[1]"  # behind all of them
    assert server.post("/models/named/invoke", b"last").body == b"done"
    assert len(list(directory.glob("ran-*"))) == 2  # the one that was begun, and the last
    for client in clients:
        client.close()
