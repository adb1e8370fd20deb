"""A line for each request that the access log tells of, from a real server."""

import re
from collections.abc import Callable

import orjson
from conftest import ECHO, WATCHDOG_S, Serve, Server, wait_until

ModelDir = Callable[[str, str], str]

FAILING = """
from headrace import InferenceError, Model
class Failing(Model):
    def handle(self, requests):
        raise InferenceError(int(bytes(requests[0].body)), "as asked")
"""


def words(line: str) -> dict[str, str]:
    """A text line's fields; fails for a line that is not what quote() makes."""
    found = dict(re.findall(r' ([a-z_]+)=([^" =\\]+|"(?:[^"\\]|\\.)*")', line))
    assert "".join(f" {key}={value}" for key, value in found.items()) == line.partition(" access")[2], line
    return found


def access_lines(server: Server) -> list[str]:
    return [line for line in server.lines if " access " in line or '"event":"access"' in line]


def test_requests_are_told_of_a_line_each_that_no_client_can_forge(serve: Serve, model_dir: ModelDir) -> None:
    server = serve(model_dir("echo", ECHO), HEADRACE_WORKERS="1", HEADRACE_ACCESS_LOG="on")

    def told(count: int) -> list[dict[str, str]]:
        wait_until(lambda: len(access_lines(server)) >= count, f"fewer than {count} lines:\n{server.log}")
        return [words(line) for line in access_lines(server)]

    target_model = 'a b"=c\\ \x85 status=500'
    secrets = {"authorization": "Bearer secret-token", "X-Amzn-SageMaker-Target-Model": target_model}
    answer = server.post("/models/echo/invoke?key=secret-query", b"secret-body", **secrets)
    assert server.request("GET", "/ping").status == server.request("GET", "/health/live").status == 200
    assert server.post("/models/none/invoke", b"1").status == 404
    assert server.post(f"/models/{'x' * 2000}/invoke", b"1").status == 404
    assert server.request("GET", "/models", management=True).status == 200
    client = server.connect()
    client.settimeout(WATCHDOG_S)
    client.sendall(b"no request at all\r\n\r\n")
    assert b" 400 " in client.recv(4096)
    first, unknown, long, managed, garbled = told(5)
    address, port = "{}:{}".format(*client.getsockname()).split(":")
    assert first["client"].startswith(f"{address}:")
    assert garbled["client"] == f"{address}:{port}"
    assert first["id"] == answer.headers["x-request-id"]
    assert (first["method"], first["path"], first["model"]) == ("POST", "/models/echo/invoke", "echo")
    assert first["target_model"] == r'"a b\"=c\\ \x85 status=500"'
    assert (first["status"], first["bytes_in"], first["bytes_out"], first["batch_rows"]) == ("200", "11", "11", "1")
    queue, compute, total = (float(first[f"{name}_ms"]) for name in ("queue", "compute", "total"))
    assert min(queue, compute) >= 0
    assert queue + compute <= total + 0.002  # each of them is rounded to a microsecond
    assert (unknown["status"], unknown["path"], "model" in unknown, "queue_ms" in unknown) == (
        "404",
        "/models/none/invoke",
        False,
        False,
    )
    assert long["path"] == "/models/" + (256 - len("/models/")) * "x" + "..."
    assert (managed["method"], managed["path"], managed["status"]) == ("GET", "/models", "200")
    assert (garbled["status"], "method" in garbled, "path" in garbled) == ("400", False, False)
    assert "secret" not in server.log
    assert len(access_lines(server)) == 5  # none of a health check


def test_a_share_is_told_of_evenly_and_every_failure(serve: Serve, model_dir: ModelDir) -> None:
    models = model_dir("echo", ECHO), model_dir("failing", FAILING)
    server = serve(*models, HEADRACE_WORKERS="1", HEADRACE_ACCESS_LOG="10%", HEADRACE_LOG_FORMAT="json")
    for _ in range(60):
        assert server.post("/models/echo/invoke", b"1").status == 200
    for status in (503, 500, 404, 507):
        assert server.post("/models/failing/invoke", b"%d" % status).status == status
    wait_until(lambda: '"status":507' in server.log, "the last one is not told of")
    lines = [orjson.loads(line) for line in access_lines(server)]
    assert 4 <= len([line for line in lines if line["model"] == "echo"]) <= 8
    assert [line["status"] for line in lines if line["model"] == "failing" and line["status"] >= 500] == [503, 500, 507]
    for line in lines:
        assert (line["level"], line["process"], line["event"]) == ("INFO", "frontend-0", "access")
        assert 0 <= line["queue_ms"] <= line["total_ms"]
        assert 0 <= line["compute_ms"] <= line["total_ms"]


def test_nothing_is_told_unless_it_is_asked_for(serve: Serve, model_dir: ModelDir) -> None:
    server = serve(model_dir("failing", FAILING), HEADRACE_WORKERS="1")
    assert server.post("/models/failing/invoke", b"503").status == 503
    assert server.stop() == 0
    assert access_lines(server) == []
