"""Nothing is lost: slots, descriptors and processes are what they were, after any amount of good and bad traffic."""

import contextlib
import random
import socket
import struct

import psutil
from conftest import Server, wait_until, write_model

MODEL = """
from headrace import Model
class M(Model):
    def predict(self, x):
        return x + 1
"""
GOOD = (
    b"POST /models/m/invoke HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n[[1,2,3]]"
)


def test_should_hold_nothing_more_after_a_storm_of_good_bad_and_vanishing_clients(serve, tmp_path):
    server = serve(write_model(tmp_path / "m", MODEL), HEADRACE_ARENA="16MiB", HEADRACE_BODY_TIMEOUT="2s")
    assert server.post("/models/m/invoke", b"[[1,2,3]]").status == 200
    before = server.held()
    chance = random.Random(7)
    pieces = [
        GOOD,
        GOOD * 5,
        GOOD[:-4],
        GOOD[:20],
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ]
    pieces += [GOOD.replace(b"[[1,2,3]]", b"[[1,2,]]]"), GOOD.replace(b"/m/", b"/none/"), b"\r\n\r\n\r\n", b""]
    pieces += [b"POST /models/m/invoke HTTP/1.1\r\nHost: t\r\nContent-Length: 4000000\r\n\r\n" + b"x" * 70_000]
    for _ in range(400):
        sock = server.connect()
        with contextlib.suppress(ConnectionError):
            sock.sendall(chance.choice(pieces))
            if chance.random() < 0.4:
                sock.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    sock.recv(100_000)
        if chance.random() < 0.3:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    server.check_holds_no_more_than(before)
    for _ in range(200):
        assert server.post("/models/m/invoke", b"[[1,2,3]]").json() == {"predictions": [[2, 3, 4]]}


def test_should_end_with_the_supervisor(serve, tmp_path):
    server = Server(write_model(tmp_path / "m", MODEL)).ready()
    family = server.family()
    psutil.Process(server.process.pid).kill()
    server.process.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    server.reader.join(30)


def test_should_serve_on_after_a_worker_is_killed_and_lose_no_request(serve, tmp_path):
    server = serve(write_model(tmp_path / "m", MODEL))
    for _ in range(5):
        (worker,) = server.named("worker")
        sock = server.connect()
        worker.suspend()
        sock.sendall(GOOD * 20)
        wait_until(lambda: server.metric("headrace_slots_leased") == 20, "not under way")
        worker.kill()
        received = b""
        while received.count(b'{"predictions":[[2') < 20:
            data = sock.recv(1 << 16)
            assert data, received
            received += data
        assert received.count(b"HTTP/1.1 200 OK") == 20
        sock.close()
    server.held()


def test_should_start_a_new_frontend_when_one_dies(serve, tmp_path):
    server = serve(write_model(tmp_path / "m", MODEL))
    before = server.held()
    (frontend,) = server.named("frontend")
    frontend.kill()

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return server.post("/models/m/invoke", b"[[1,2,3]]").status == 200
        return False

    wait_until(answers, "no successor serves")
    assert server.metric("headrace_slots_leased") == 0
    server.check_holds_no_more_than(before)
