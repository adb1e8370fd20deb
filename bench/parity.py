"""Replays the same requests against the real Multi Model Server and against Headrace, and prints what differs.

    python -m bench.parity ORIGINAL [--write docs/parity.md]

ORIGINAL is the real `multi-model-server` command, in a virtual environment of its own (see `make parity`); needs Java.
Both servers are started through their command lines, with the same configuration file and model store.
"""

import argparse
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START_S = 60.0
LIMIT_BYTES = 65536  # of requests and of responses
HANDLER = """
import os
from mms.service import PredictionException

def handle(data, context):
    if data is None:
        return None
    asked = data[0].get("body")
    if asked == "raise":
        raise ValueError("secret")
    if asked == "predict":
        raise PredictionException("no such breed", 599)
    if asked == "memory":
        raise MemoryError("so much")
    if asked == "exit":
        os._exit(3)
    if asked == "object":
        return {}
    if asked == "two":
        return ["a", "b"]
    if asked == "set":
        return [{1, 2}]
    if isinstance(asked, bytearray) and len(asked) > 100:
        return [str(len(asked))]
    if asked == "large":
        return ["x" * 70_000]
    if asked == "status":
        context.set_response_status(418, "teapot", 0)
        context.set_response_content_type(0, "text/tea")
    return [{name: str(value) for name, value in sorted(data[0].items())}]
"""
BROKEN = "import nothing_of_that_name\n"
PARTS = (
    b'--X\r\ncontent-disposition: form-data; name="a"\r\n\r\nplain\r\n'
    b'--X\r\ncontent-disposition: form-data; name="f"; filename="f"\r\ncontent-type: application/json\r\n\r\n[1]\r\n'
    b"--X--\r\n"
)
ORIGIN = "https://a.example"
I, M = "inference", "management"  # noqa: E741


@dataclass(frozen=True)
class Request:
    """settled: asked again until no worker is on its way, since the request before answers first and acts later."""

    port: str
    method: str
    path: str
    body: bytes = b""
    kind: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    settled: bool = False

    def __str__(self) -> str:
        said = [f"{self.port}: `{self.method} {self.path}`"]
        said += [f"`{name}: {value}`" for name, value in self.headers.items()]
        if len(self.body) > 100:
            said.append(f"{len(self.body)} bytes" + (f" of `{self.kind}`" if self.kind else ""))
        elif self.body:
            said.append(f"`{self.body.decode()}`")
        return " ".join(said)


@dataclass(frozen=True)
class Reply:
    """status 0: there was no answer, and body says why."""

    status: int
    body: str
    fields: Mapping[str, str] = field(default_factory=dict)


def predict(body: str) -> Request:
    return Request(I, "POST", "/predictions/m", body.encode(), "text/plain")


REQUESTS: tuple[Request, ...] = (
    Request(I, "GET", "/ping"),
    Request(I, "POST", "/ping"),
    Request(I, "GET", "/nothing"),
    Request(I, "GET", "/"),
    Request(I, "GET", "/models"),
    Request(M, "GET", "/ping"),
    Request(I, "OPTIONS", "/"),
    Request(M, "OPTIONS", "/"),
    Request(M, "GET", "/models"),
    Request(M, "PATCH", "/models"),
    Request(M, "PATCH", "/models/ghost"),
    Request(M, "GET", "/models/ghost"),
    Request(M, "GET", "/models/a/b"),
    Request(M, "POST", "/models"),
    Request(M, "POST", "/models?url=ghost&model_name=m"),
    Request(M, "POST", "/models?url=../m&model_name=m"),
    Request(M, "POST", "/models?url=http://&model_name=m"),
    Request(M, "POST", "/models?url=http://h:x/m.mar&model_name=m"),
    Request(M, "POST", "/models?url=m&runtime=perl"),
    Request(M, "POST", "/models?url=bare"),
    Request(M, "POST", "/models?url=bare&model_name=m"),
    Request(M, "POST", "/models?url=broken&initial_workers=1&synchronous=true"),
    Request(M, "POST", "/models?url=m&initial_workers=1&synchronous=true"),
    Request(M, "POST", "/models?url=m&initial_workers=1&synchronous=true"),
    Request(M, "POST", "/models", b'{"url": "m", "model_name": "j", "initial_workers": "1",}', "application/json"),
    Request(M, "DELETE", "/models/j"),
    Request(M, "POST", "/models", b"{'url': 'm', 'model_name': 'k', 'initial_workers': 1}", "application/json"),
    Request(M, "POST", "/models", b'{"url": "m", "model_name": "l", "batch_size": "2"}', "application/json"),
    Request(M, "POST", "/models?url=m&model_name=n&initial_workers=1&synchronous=false&batch_size=4&max_batch_delay=9"),
    Request(M, "GET", "/models"),
    Request(M, "GET", "/models?limit=2"),
    Request(M, "GET", "/models?limit=2&next_page_token=2"),
    Request(M, "GET", "/models?limit=101&next_page_token=x"),
    Request(M, "GET", "/models?next_page_token=3"),
    Request(M, "GET", "/models?next_page_token=9"),
    Request(M, "GET", "/models/m"),
    Request(M, "GET", "/models/n", settled=True),
    Request(I, "OPTIONS", "/predictions/m"),
    Request(I, "POST", "/predictions/m", b'{"a": 1}', "application/json"),
    predict("text"),
    Request(I, "POST", "/predictions/m", b"raw", "application/octet-stream"),
    Request(I, "POST", "/predictions/m", PARTS, "multipart/form-data; boundary=X"),
    Request(I, "GET", "/predictions/m?q=1"),
    Request(I, "PUT", "/m/predict?q=1", b"x", "text/plain"),
    Request(I, "POST", "/models/m/invoke", b"a=1&b=2", "application/x-www-form-urlencoded"),
    Request(I, "POST", "/invocations?model_name=m", b"x", "text/plain"),
    Request(I, "POST", "/invocations", b"x", "text/plain"),
    Request(I, "POST", "/predictions/ghost"),
    Request(I, "POST", "/predictions/m", b" " * LIMIT_BYTES, "application/octet-stream"),
    Request(I, "POST", "/predictions/m", b" " * (LIMIT_BYTES + 1), "application/octet-stream"),
    *map(predict, ("status", "raise", "predict", "memory", "object", "two", "set", "exit", "text", "large", "text")),
    Request(I, "GET", "/ping", headers={"origin": ORIGIN}),
    Request(I, "OPTIONS", "/predictions/m", headers={"origin": ORIGIN, "access-control-request-method": "POST"}),
    Request(M, "PUT", "/models/m?min_worker=2&synchronous=true"),
    Request(M, "GET", "/models/m"),
    Request(M, "PUT", "/models/m?min_worker=2&max_worker=1"),
    Request(M, "PUT", "/models/m?min_worker=1"),
    Request(M, "GET", "/models/m", settled=True),
    Request(M, "PUT", "/models/ghost?min_worker=1"),
    Request(M, "DELETE", "/models/m"),
    Request(M, "DELETE", "/models/m"),
)


def main() -> int:
    parser = argparse.ArgumentParser("parity", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("original", help="the real multi-model-server command")
    parser.add_argument("--write", metavar="FILE", help="write the table there, too")
    arguments = parser.parse_args()
    ours = os.path.join(sysconfig.get_path("scripts"), "multi-model-server")
    replies = []
    for command in (os.path.abspath(arguments.original), ours):
        with served(command) as ports:
            replies.append([ask(ports, request) for request in REQUESTS])
    text = render(*replies)
    print(text)
    if arguments.write:
        Path(arguments.write).write_text(text)
    return 0


@contextlib.contextmanager
def served(command: str) -> Iterator[dict[str, int]]:
    """Ports of a server of *command* that is ready, with a store of two handlers and a folder without a manifest."""
    with tempfile.TemporaryDirectory() as directory:
        for name, source in (("m", HANDLER), ("broken", BROKEN)):
            folder = Path(directory, "store", name, "MAR-INF")
            folder.mkdir(parents=True)
            manifest = {"runtime": "python", "model": {"modelName": name, "handler": "service.py:handle"}}
            (folder / "MANIFEST.json").write_text(json.dumps(manifest))
            (folder.parent / "service.py").write_text(source)
        Path(directory, "store", "bare").mkdir()
        ports = dict(zip((I, M), free_ports(2), strict=True))
        addresses = "".join(f"{name}_address=http://127.0.0.1:{port}\n" for name, port in ports.items())
        limits = f"max_request_size={LIMIT_BYTES}\nmax_response_size={LIMIT_BYTES}\n"
        cors = f"cors_allowed_origin={ORIGIN}\ncors_allowed_methods=GET, POST, PUT, OPTIONS\n"
        Path(directory, "config.properties").write_text(addresses + limits + cors)
        environ = {**os.environ, "TMPDIR": directory, "LOG_LOCATION": directory, "METRICS_LOCATION": directory}
        environ["PATH"] = f"{os.path.dirname(command)}:{environ['PATH']}"
        words = ["--model-store", "store", "--mms-config", "config.properties"]
        quiet = {"cwd": directory, "env": environ, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([command, "--start", *words], check=True, **quiet)  # type: ignore[call-overload]
        try:
            end_s = time.monotonic() + START_S
            while ask(ports, Request(I, "GET", "/ping")).status != 200:
                if time.monotonic() > end_s:
                    raise SystemExit(f"{command} did not come up within {START_S:.0f} s")
                time.sleep(0.1)
            yield ports
        finally:
            subprocess.run([command, "--stop"], check=True, **quiet)  # type: ignore[call-overload]


def free_ports(count: int) -> list[int]:
    """Free ports below 32767, as the original wants them."""
    found: list[int] = []
    for port in range(20000 + os.getpid() % 5000, 32767):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            found.append(port)
            if len(found) == count:
                return found
    raise SystemExit("no free ports")


def ask(ports: Mapping[str, int], request: Request) -> Reply:
    end_s = time.monotonic() + START_S
    while True:
        reply = _ask(ports, request)
        if not request.settled or time.monotonic() > end_s or _is_settled(json.loads(reply.body)):
            return reply
        time.sleep(0.05)


def _ask(ports: Mapping[str, int], request: Request) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", ports[request.port], timeout=START_S)
    kind = {"content-type": request.kind} if request.kind else {}
    try:
        connection.request(request.method, request.path, request.body, {**kind, **request.headers})
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
        return Reply(answer.status, text, {name.lower(): value for name, value in answer.getheaders()})
    except OSError as error:
        return Reply(0, str(error))
    finally:
        connection.close()


def _is_settled(description: Mapping[str, Any]) -> bool:
    ready = [worker["status"] for worker in description["workers"]]
    return ready == ["READY"] * description["minWorkers"]


def render(theirs: list[Reply], ours: list[Reply]) -> str:
    """Markdown: how many requests were answered alike; those to which ours says more, and the others, with both."""
    more, other = [], []
    for request, original, mine in zip(REQUESTS, theirs, ours, strict=True):
        if original.status == mine.status and _fields(request, original) == _fields(request, mine):
            before, after = _document(original.body), _document(mine.body)
            if before == after:
                continue
            if _goes_on(before, after):
                more.append(_row(request, original, mine))
                continue
        other.append(_row(request, original, mine))
    alike = len(REQUESTS) - len(more) - len(other)
    columns = ["| request | Multi Model Server | Headrace |", "|---|---|---|"]
    return "\n".join(
        [
            "# Answers of Multi Model Server and of Headrace",
            "",
            f"Made by `make parity`: {len(REQUESTS)} requests to each, on two ports.",
            "",
            f"- {alike} were answered alike: equal status and JSON (ids, times and memory of workers aside; of an "
            "API's description the paths and methods).",
            f"- To {len(more)} Headrace answers the same with something added: a field, or the reason in a message.",
            f"- {len(other)} differ, for the reasons in [migrating-from-mms.md](migrating-from-mms.md).",
            "",
            "## The same, with something added",
            "",
            *columns,
            *more,
            "",
            "## Different",
            "",
            *columns,
            *other,
            "",
        ]
    )


def _fields(request: Request, reply: Reply) -> dict[str, str]:
    """Those that decide whether a page of another origin may ask: see the Fetch standard, "CORS protocol"."""
    is_preflight = "access-control-request-method" in request.headers
    names = ("origin", "methods") if is_preflight else ("origin",)
    found = {name: reply.fields.get(f"access-control-allow-{name}") for name in names if "origin" in request.headers}
    return {name: value for name, value in found.items() if value is not None}


def _document(text: str) -> Any:
    """JSON, of an API's description its paths and methods only; what is no JSON as it is."""
    try:
        document = json.loads(text)
    except ValueError:
        return text
    if isinstance(document, dict) and "openapi" in document:
        return {path: sorted(operations) for path, operations in document["paths"].items()}
    if isinstance(document, dict):
        for worker in document.get("workers", ()):
            for name in ("id", "startTime", "memoryUsage"):
                del worker[name]
    return document


def _goes_on(theirs: Any, ours: Any) -> bool:
    """Whether ours has all that theirs has: more fields, a longer text around the same words."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return all(name in ours and _goes_on(value, ours[name]) for name, value in theirs.items())
    if isinstance(theirs, str) and isinstance(ours, str):
        return theirs in ours and theirs != ""
    return bool(theirs == ours)


def _row(request: Request, original: Reply, ours: Reply) -> str:
    return f"| {request} | {_shown(request, original)} | {_shown(request, ours)} |"


def _shown(request: Request, reply: Reply) -> str:
    document = _document(reply.body)
    text = reply.body if isinstance(document, str) else json.dumps(document)
    text = re.sub(r"\s+", " ", text).replace("|", "\\|").strip()
    fields = "".join(f" `allow-{name}: {value}`" for name, value in _fields(request, reply).items())
    return f"{reply.status}{fields} `{text[:300]}`" if text else f"{reply.status}{fields}"


if __name__ == "__main__":
    sys.exit(main())
