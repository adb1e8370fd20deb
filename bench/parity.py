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
from collections.abc import Iterator
from pathlib import Path

START_S = 60.0
HANDLER = """
def handle(data, context):
    if data is None:
        return None
    for index, item in enumerate(data):
        if item.get("body") == "raise":
            raise ValueError("secret")
        if item.get("body") == "status":
            context.set_response_status(418, "teapot", index)
    return [{name: str(value) for name, value in item.items()} for item in data]
"""
BROKEN = "import nothing_of_that_name\n"

# (port, method, path, body, content type)
Request = tuple[str, str, str, bytes, str]
I, M = "inference", "management"  # noqa: E741
REQUESTS: tuple[Request, ...] = (
    (I, "GET", "/ping", b"", ""),
    (I, "POST", "/ping", b"", ""),
    (I, "GET", "/nothing", b"", ""),
    (I, "GET", "/", b"", ""),
    (I, "GET", "/models", b"", ""),
    (M, "GET", "/ping", b"", ""),
    (M, "GET", "/models", b"", ""),
    (M, "PATCH", "/models", b"", ""),
    (M, "GET", "/models/ghost", b"", ""),
    (M, "POST", "/models", b"", ""),
    (M, "POST", "/models?url=ghost&model_name=m", b"", ""),
    (M, "POST", "/models?url=../m&model_name=m", b"", ""),
    (M, "POST", "/models?url=http://&model_name=m", b"", ""),
    (M, "POST", "/models?url=m&runtime=perl", b"", ""),
    (M, "POST", "/models?url=broken&initial_workers=1&synchronous=true", b"", ""),
    (M, "POST", "/models?url=m&initial_workers=1&synchronous=true", b"", ""),
    (M, "POST", "/models?url=m&initial_workers=1&synchronous=true", b"", ""),
    (M, "POST", "/models", b'{"url": "m", "model_name": "j", "initial_workers": "1",}', "application/json"),
    (M, "POST", "/models", b"{'url': 'm', 'model_name': 'k', 'initial_workers': 1}", "application/json"),
    (M, "GET", "/models", b"", ""),
    (M, "GET", "/models?limit=1", b"", ""),
    (M, "GET", "/models/m", b"", ""),
    (I, "POST", "/predictions/m", b'{"a": 1}', "application/json"),
    (I, "POST", "/predictions/m", b"text", "text/plain"),
    (I, "POST", "/predictions/m", b"raw", "application/octet-stream"),
    (I, "GET", "/predictions/m?q=1", b"", ""),
    (I, "PUT", "/m/predict?q=1", b"x", "text/plain"),
    (I, "POST", "/models/m/invoke", b"a=1&b=2", "application/x-www-form-urlencoded"),
    (I, "POST", "/invocations?model_name=m", b"x", "text/plain"),
    (I, "POST", "/invocations", b"x", "text/plain"),
    (I, "POST", "/predictions/ghost", b"", ""),
    (I, "POST", "/predictions/m", b"status", "text/plain"),
    (I, "POST", "/predictions/m", b"raise", "text/plain"),
    (M, "PUT", "/models/m?min_worker=2&synchronous=true", b"", ""),
    (M, "PUT", "/models/m?min_worker=2&max_worker=1", b"", ""),
    (M, "PUT", "/models/m?min_worker=1", b"", ""),
    (M, "DELETE", "/models/m", b"", ""),
    (M, "DELETE", "/models/m", b"", ""),
)


def main() -> int:
    parser = argparse.ArgumentParser("parity", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("original", help="the real multi-model-server command")
    parser.add_argument("--write", metavar="FILE", help="write the table there, too")
    arguments = parser.parse_args()
    ours = os.path.join(sysconfig.get_path("scripts"), "multi-model-server")
    with served(os.path.abspath(arguments.original)) as ports:
        theirs = [ask(ports, request) for request in REQUESTS]
    with served(ours) as ports:
        mine = [ask(ports, request) for request in REQUESTS]
    text = render(theirs, mine)
    print(text)
    if arguments.write:
        Path(arguments.write).write_text(text)
    return 0


@contextlib.contextmanager
def served(command: str) -> Iterator[dict[str, int]]:
    """Ports of a server of *command* that is ready, with a store of two handlers."""
    with tempfile.TemporaryDirectory() as directory:
        for name, source in (("m", HANDLER), ("broken", BROKEN)):
            folder = Path(directory, "store", name, "MAR-INF")
            folder.mkdir(parents=True)
            manifest = {"runtime": "python", "model": {"modelName": name, "handler": "service.py:handle"}}
            (folder / "MANIFEST.json").write_text(json.dumps(manifest))
            (folder.parent / "service.py").write_text(source)
        ports = {I: free_port(), M: free_port()}
        addresses = "".join(f"{name}_address=http://127.0.0.1:{port}\n" for name, port in ports.items())
        Path(directory, "config.properties").write_text(addresses)
        environ = {**os.environ, "TMPDIR": directory, "LOG_LOCATION": directory, "METRICS_LOCATION": directory}
        environ["PATH"] = f"{os.path.dirname(command)}:{environ['PATH']}"
        words = ["--model-store", "store", "--mms-config", "config.properties"]
        quiet = {"cwd": directory, "env": environ, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([command, "--start", *words], check=True, **quiet)  # type: ignore[call-overload]
        try:
            end_s = time.monotonic() + START_S
            while ask(ports, (I, "GET", "/ping", b"", ""))[0] != 200:
                if time.monotonic() > end_s:
                    raise SystemExit(f"{command} did not come up within {START_S:.0f} s")
                time.sleep(0.1)
            yield ports
        finally:
            subprocess.run([command, "--stop"], check=True, **quiet)  # type: ignore[call-overload]


def free_port() -> int:
    """A free port below 32767, as the original wants it."""
    for port in range(20000 + os.getpid() % 5000, 32767):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise SystemExit("no free port")


def ask(ports: dict[str, int], request: Request) -> tuple[int, str]:
    """Status, and body as text; 0 and the reason when there is no answer."""
    port, method, path, body, kind = request
    connection = http.client.HTTPConnection("127.0.0.1", ports[port], timeout=START_S)
    try:
        connection.request(method, path, body, {"content-type": kind} if kind else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    except OSError as error:
        return 0, str(error)
    finally:
        connection.close()


def render(theirs: list[tuple[int, str]], mine: list[tuple[int, str]]) -> str:
    """Markdown: the requests that were answered alike by number, the others with both answers."""
    rows, alike = [], 0
    for request, original, ours in zip(REQUESTS, theirs, mine, strict=True):
        if comparable(original) == comparable(ours):
            alike += 1
            continue
        port, method, path, body, _ = request
        asked = f"{port}: `{method} {path}`" + (f" `{body.decode()}`" if body else "")
        rows.append(f"| {asked} | {shown(original)} | {shown(ours)} |")
    head = [
        "# Answers of Multi Model Server and of Headrace",
        "",
        f"Made by `make parity`: {len(REQUESTS)} requests to each, {alike} answered with equal status and equal JSON "
        "(workers aside). The others; [migrating-from-mms.md](migrating-from-mms.md) gives the reasons:",
        "",
        "| request | Multi Model Server | Headrace |",
        "|---|---|---|",
    ]
    return "\n".join([*head, *rows, ""])


def comparable(answer: tuple[int, str]) -> object:
    status, text = answer
    try:
        document = json.loads(text)
    except ValueError:
        return answer
    if isinstance(document, dict):
        for worker in document.get("workers", ()):
            worker.clear()
    return status, document


def shown(answer: tuple[int, str]) -> str:
    text = re.sub(r"\s+", " ", answer[1]).replace("|", "\\|").strip()
    return f"{answer[0]} `{text[:200]}`" if text else str(answer[0])


if __name__ == "__main__":
    sys.exit(main())
