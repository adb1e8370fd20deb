"""The connection as clients meet it, on raw sockets: framing, order, limits, ends. (HTTP.md is the bar; RFC 9112.)"""

import json
import re
import socket
import struct
import threading

import pytest
from conftest import WATCHDOG_S, Server, wait_until, write_model

ECHO = """
from headrace import Model
class Echo(Model):
    def handle(self, requests):
        return [request.body for request in requests]
"""

SIZED = """
import time
from headrace import Model, Response
class Sized(Model):
    max_batch_size = 1
    def handle(self, requests):
        found = []
        for request in requests:
            what = request.json()
            time.sleep(what.get("sleep", 0))
            found.append(Response(what.get("text", "x") * what.get("times", 1), content_type="text/plain"))
        return found
"""


@pytest.fixture(scope="module")
def server(serve_module, tmp_path_factory) -> Server:
    models = tmp_path_factory.mktemp("models")
    return serve_module(
        write_model(models / "echo", ECHO),
        write_model(models / "sized", SIZED),
        HEADRACE_MAX_REQUEST="1MiB",
        HEADRACE_ARENA="32MiB",
        HEADRACE_HEADER_TIMEOUT="2s",
        HEADRACE_BODY_TIMEOUT="2s",
        HEADRACE_IDLE_TIMEOUT="3s",
    )


def head(path: str = "/models/echo/invoke", *lines: str, method: str = "POST", version: str = "1.1") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/{version}", "Host: t", *lines, "", "")).encode()


def post(body: bytes, path: str = "/models/echo/invoke", *lines: str) -> bytes:
    return head(path, f"Content-Length: {len(body)}", "Content-Type: application/json", *lines) + body


class Reader:
    """Answers off a socket, one after another."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.buffer = sock, b""

    def fill(self) -> bool:
        try:
            data = self.sock.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        self.buffer += data
        return bool(data)

    def answer(self, has_body: bool = True) -> tuple[int, dict[str, str], bytes]:
        while b"\r\n\r\n" not in self.buffer:
            assert self.fill(), f"the connection ended after {self.buffer!r}"
        top, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        lines = top.decode("latin-1").split("\r\n")
        assert re.fullmatch(r"HTTP/1\.1 \d{3} .*", lines[0]), lines[0]
        status = int(lines[0].split(" ")[1])
        fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
        length = int(fields.get("content-length", 0)) if has_body and status >= 200 else 0
        while len(self.buffer) < length:
            assert self.fill(), "the connection ended within a body"
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return status, fields, body

    def ends(self) -> bool:
        while self.fill():
            pass
        return self.buffer == b""


def ask(server: Server, *pieces: bytes) -> Reader:
    sock = server.connect()
    for piece in pieces:
        sock.sendall(piece)
    return Reader(sock)


def test_should_answer_with_the_fields_that_rfc_9110_asks_for(server):
    status, fields, body = ask(server, post(b'{"a": 1}')).answer()
    assert (status, body) == (200, b'{"a": 1}')
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", fields["x-request-id"])
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", fields["date"])


def test_should_give_each_request_an_id_of_its_own(server):
    reader = ask(server, post(b"1") * 50)
    assert len({reader.answer()[1]["x-request-id"] for _ in range(50)}) == 50


def test_should_serve_the_same_whatever_the_packets(server):
    raw = post(b'{"n": [1, 2, 3]}')
    for size in (1, 7, 64):
        reader = ask(server, *(raw[at : at + size] for at in range(0, len(raw), size)))
        assert reader.answer()[2] == b'{"n": [1, 2, 3]}'


@pytest.mark.parametrize("count", [2, 300, 2000])
def test_should_answer_pipelined_requests_in_order(server, count):
    reader = ask(server)
    bodies = [json.dumps({"i": i}).encode() for i in range(count)]
    sender = threading.Thread(target=reader.sock.sendall, args=(b"".join(map(post, bodies)),))
    sender.start()
    assert [reader.answer()[2] for _ in range(count)] == bodies
    sender.join(WATCHDOG_S)


def test_should_keep_order_when_an_early_answer_is_slow_and_another_is_local(server):
    slow = post(b'{"sleep": 0.2, "text": "slow"}', "/models/sized/invoke")
    reader = ask(server, slow + post(b'"fast"') + head("/ping", method="GET") + post(b"{}", "/models/none/invoke"))
    assert reader.answer()[2] == b"slow"
    assert reader.answer()[2] == b'"fast"'
    assert json.loads(reader.answer()[2]) == {"status": "Healthy"}
    assert reader.answer()[0] == 404


def test_should_answer_good_requests_before_refusing_a_bad_one(server):
    reader = ask(server, post(b"1") + post(b"2") + b"BAD REQUEST\r\n\r\n" + post(b"3"))
    assert [reader.answer()[2] for _ in range(2)] == [b"1", b"2"]
    status, fields, body = reader.answer()
    assert (status, fields["connection"]) == (400, "close")
    assert set(json.loads(body)) == {"code", "type", "message"}
    assert reader.ends()


def test_should_take_chunked_bodies_and_drop_trailers(server):
    chunks = b"3\r\n[1,\r\n4;ext=1\r\n2,3]\r\n0\r\nX-Trailer: 1\r\nContent-Length: 9\r\n\r\n"
    reader = ask(server, head("/models/echo/invoke", "Transfer-Encoding: chunked") + chunks + post(b"4"))
    assert reader.answer()[2] == b"[1,2,3]"
    assert reader.answer()[2] == b"4"


def test_should_grow_a_slot_for_a_long_chunked_body(server):
    body = bytes(range(256)) * 3000
    pieces = [body[at : at + 10_007] for at in range(0, len(body), 10_007)]
    raw = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    assert ask(server, head("/models/echo/invoke", "Transfer-Encoding: chunked"), raw).answer()[2] == body


def test_should_receive_and_send_a_body_of_the_largest_size(server):
    body = bytes(i * 7 & 255 for i in range(1 << 20))
    assert ask(server, post(body)).answer()[2] == body


def test_should_send_100_only_when_the_client_waits_for_it(server):
    reader = ask(server, head("/models/echo/invoke", "Content-Length: 2", "Expect: 100-continue"))
    assert reader.answer()[0] == 100
    reader.sock.sendall(b"42")
    assert reader.answer()[2] == b"42"
    with_body = ask(server, head("/models/echo/invoke", "Content-Length: 2", "Expect: 100-Continue") + b"42")
    assert with_body.answer()[0] == 200


@pytest.mark.parametrize(
    ("path", "lines", "status"),
    [
        ("/models/none/invoke", ("Content-Length: 3", "Expect: 100-continue"), 404),
        ("/models/echo/invoke", ("Content-Length: 9999999", "Expect: 100-continue"), 413),
        ("/models/echo/invoke", ("Content-Length: 3", "Expect: 200-maybe"), 417),
    ],
)
def test_should_refuse_instead_of_100(server, path, lines, status):
    reader = ask(server, head(path, *lines))
    assert reader.answer()[0] == status


def test_should_send_no_body_for_head(server):
    reader = ask(server, head("/ping", method="HEAD") + head("/ping", method="GET"))
    status, fields, _ = reader.answer(has_body=False)
    assert status == 200
    assert int(fields["content-length"]) > 0
    assert reader.answer()[0] == 200


def test_should_close_after_http_1_0_unless_asked_to_keep(server):
    once = ask(server, head("/ping", method="GET", version="1.0"))
    assert once.answer()[1]["connection"] == "close"
    assert once.ends()
    kept = ask(server, head("/ping", "Connection: keep-alive", method="GET", version="1.0") * 2)
    assert [kept.answer()[1]["connection"] for _ in range(2)] == ["keep-alive"] * 2


def test_should_answer_nothing_behind_connection_close(server):
    reader = ask(server, post(b"1", "/models/echo/invoke", "Connection: Close, TE") + post(b"2"))
    status, fields, body = reader.answer()
    assert (status, fields["connection"], body) == (200, "close", b"1")
    assert reader.ends()


def test_should_answer_what_was_asked_before_a_half_close(server):
    reader = ask(server, post(b'{"sleep": 0.1, "text": "a"}', "/models/sized/invoke") + post(b"2"))
    reader.sock.shutdown(socket.SHUT_WR)
    assert [reader.answer()[2] for _ in range(2)] == [b"a", b"2"]
    assert reader.ends()


@pytest.mark.parametrize("part", [b"POST /models/echo/inv", head()[:-2], post(b"123456789")[:-3]])
def test_should_give_no_2xx_when_the_client_ends_within_a_request(server, part):
    reader = ask(server, part)
    reader.sock.shutdown(socket.SHUT_WR)
    while reader.fill():
        pass
    assert b"HTTP/1.1 2" not in reader.buffer


@pytest.mark.parametrize(
    ("raw", "status", "allow"),
    [
        (head("/nothing", method="GET"), 404, None),
        (head("/", method="GET"), 405, "OPTIONS"),
        (head("/models/a%2fb/invoke"), 400, None),
        (head("/models/../x/invoke"), 400, None),
        (head("/models/echo/invoke", method="TRACE"), 405, "GET, POST, PUT"),
        (head("/invocations", method="CONNECT"), 405, "GET, POST, PUT"),
        (head("/ping", method="BREW"), 501, None),
        (head("/nothing", method="TRACE"), 404, None),
    ],
)
def test_should_say_what_is_wrong_with_a_path_or_method_and_stay_in_sync(server, raw, status, allow):
    reader = ask(server, raw)
    got, fields, body = reader.answer()
    assert got == status, body
    assert fields.get("allow") == allow
    if fields.get("connection") != "close":
        reader.sock.sendall(post(b"7"))
        assert reader.answer()[2] == b"7"


def test_should_read_a_short_body_to_its_end_after_an_early_answer(server):
    reader = ask(server, post(b"x" * 1000, "/models/none/invoke") + post(b"7") + post(b"{}", "/ping") + post(b"8"))
    assert [reader.answer()[0] for _ in range(4)] == [404, 200, 200, 200]


def test_should_refuse_a_body_beyond_the_limit_from_its_head(server):
    reader = ask(server, head("/models/echo/invoke", f"Content-Length: {(1 << 20) + 1}"))
    status, fields, body = reader.answer()
    assert (status, fields["connection"]) == (413, "close")
    assert b"HEADRACE_MAX_REQUEST" in body
    assert reader.ends()


def test_should_deliver_the_refusal_although_the_client_goes_on_sending(server):
    reader = ask(server)
    reader.sock.sendall(head("/models/echo/invoke", f"Content-Length: {1 << 22}") + b"x" * 300_000)
    assert reader.answer()[0] == 413


def test_should_refuse_a_chunked_body_that_grows_beyond_the_limit(server):
    announced = ask(server, head("/models/echo/invoke", "Transfer-Encoding: chunked") + b"200000\r\n")
    assert announced.answer()[0] == 413
    summed = ask(server, head("/models/echo/invoke", "Transfer-Encoding: chunked"))
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        summed.sock.sendall((b"4000\r\n" + b"x" * 0x4000 + b"\r\n") * 2000)


def test_should_time_out_a_head_that_trickles(server):
    reader = ask(server, b"POST /ping HT")
    status, fields, _ = reader.answer()
    assert (status, fields["connection"]) == (408, "close")
    assert reader.ends()


def test_should_time_out_a_body_that_stalls(server):
    reader = ask(server, post(b"x" * 100)[:-50])
    assert reader.answer()[0] == 408


def test_should_close_an_idle_connection_without_a_word(server):
    reader = ask(server, post(b"1"))
    reader.answer()
    assert reader.ends()


def test_should_survive_clients_that_vanish_at_any_stage_and_lose_nothing(server):
    stages = [b"", b"PO", head()[:40], post(b"x" * 500)[:-100], post(b'{"sleep": 0.05}', "/models/sized/invoke")]
    stages += [head("/models/echo/invoke", "Transfer-Encoding: chunked") + b"5\r\nab"]
    for reset in (False, True):
        for raw in stages * 10:
            sock = server.connect()
            sock.sendall(raw)
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
    wait_until(lambda: server.metric("headrace_slots_leased") == 0, "slots stay leased")
    wait_until(lambda: server.metric("headrace_connections") <= 1, "connections stay open")
    assert ask(server, post(b"1")).answer()[2] == b"1"


def test_should_hold_back_a_client_that_does_not_read(server):
    sock = server.connect()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(1.0)
    with pytest.raises(TimeoutError):  # the server does not read on while its answers are not read
        sock.sendall(post(b'{"times": 60000}', "/models/sized/invoke") * 500_000)
    assert ask(server, post(b"1")).answer()[2] == b"1"
    sock.close()
    wait_until(lambda: server.metric("headrace_slots_leased") == 0, "slots stay leased")
