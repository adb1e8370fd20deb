"""Servers for the contract tests, in both styles, and handlers that show what reaches them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Serve, Server, serve, serve_module, serving

__all__ = ["Serve", "Server", "serve", "serve_module", "serving"]

# What reaches a handler, as JSON; a body "status" has the answer's status, phrase and fields set.
MIRROR = """
import os

def handle(data, context):
    if data is None:
        return None
    answers = []
    for index, item in enumerate(data):
        body = item.get("body")
        if body == "status":
            context.set_response_status(418, "short\\r\\nand stout \\u20ac", index)
            context.set_response_content_type(index, "text/tea")
            context.set_response_header(index, "X-Tea", "a; b")
            context.set_response_header(index, "x-request-id", "forged")
            answers.append("tea")
            continue
        if body == "die":
            os._exit(3)
        if body == "raise":
            raise ValueError("secret")
        if body == "cache":
            context.set_response_header(index, "Cache-Control", "max-age=60")
        answers.append({
            "inputs": {name: [type(value).__name__, value if isinstance(value, (str, dict, list)) else value.decode()]
                       for name, value in item.items()},
            "headers": {name: value for name, value in context.get_all_request_header(index).items()
                        if isinstance(value, str)},
            "id": context.get_request_id(index),
        })
    return answers
"""
BROKEN = "import nothing_of_that_name\n"
HUNGRY = "def handle(data, context):\n    raise MemoryError('so much')\n"


def write_handler(store: Path, name: str, source: str, **model: str) -> Path:
    """A model directory with a manifest, as model-archiver lays one out."""
    directory = store / name
    (directory / "MAR-INF").mkdir(parents=True)
    manifest = {"runtime": "python", "model": {"modelName": name, "handler": "service.py:handle", **model}}
    (directory / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    (directory / "service.py").write_text(source)
    return directory


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with the handlers above; `bare` has no manifest."""
    store = tmp_path_factory.mktemp("store")
    for name, source in (("mirror", MIRROR), ("broken", BROKEN), ("hungry", HUNGRY)):
        write_handler(store, name, source)
    (store / "empty").mkdir()
    (store / "bare").mkdir()
    (store / "bare" / "svc.py").write_text(MIRROR)
    return store


class Api:
    """A server and its two ports, by what a test wants to ask."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def infer(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
        return self.server.request(method, path, body, **headers)

    def manage(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
        return self.server.request(method, path, body, management=True, **headers)
