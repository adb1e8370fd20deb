"""What the server says about itself is true, on both ports, whatever its models do."""

import signal
import socket
from pathlib import Path

from conftest import ECHO, GATED, Serve, Server, in_background, wait_until, write_model


def test_live_and_ready_are_answered_on_both_ports(serve: Serve, tmp_path: Path) -> None:
    server = serve(write_model(tmp_path / "echo", ECHO), HEADRACE_WORKERS="2")
    for management in (False, True):
        live = server.request("GET", "/health/live", management=management)
        assert (live.status, live.json()) == (200, {"status": "live"})
        ready = server.request("GET", "/health/ready", management=management)
        assert (ready.status, ready.json()) == (
            200,
            {"status": "ready", "reasons": [], "workers": {"up": 2, "wanted": 2}, "models": {"resident": 1}},
        )
        assert server.request("POST", "/health/ready", b"", management=management).status == 405
        assert server.request("GET", "/health/other", management=management).status == 404


def test_failed_and_loading_models_are_named_and_do_not_make_the_server_unready(serve: Serve, tmp_path: Path) -> None:
    slow = "import pathlib, time\nwhile not pathlib.Path(__file__).with_name('go').exists(): time.sleep(0.005)\n" + ECHO
    write_model(tmp_path / "slow", slow)
    server = serve(
        write_model(tmp_path / "echo", ECHO),
        write_model(tmp_path / "broken", "import nothing_like_it"),
        "--model-store",
        str(tmp_path),
        HEADRACE_WORKERS="1",
    )
    answer = in_background(lambda: server.manage("POST", "/models", {"url": "slow", "model_name": "slow"}))

    def reasons() -> list[str]:
        ready = server.request("GET", "/health/ready")
        assert ready.status == 200
        found: list[str] = ready.json()["reasons"]
        return found

    wait_until(lambda: "model slow is loading" in reasons(), "the load is not told of")
    assert any("model broken is failed" in reason and "nothing_like_it" in reason for reason in reasons())
    assert server.request("GET", "/ping").status == 200
    (tmp_path / "slow" / "go").touch()
    assert answer().status == 200
    wait_until(lambda: len(reasons()) == 1, "the load is over")


def test_a_stopped_worker_makes_the_server_unready_and_says_so(serve: Serve, tmp_path: Path) -> None:
    server = serve(write_model(tmp_path / "echo", ECHO), HEADRACE_WORKERS="1")
    # With no template no worker can be forked: the successor is waited for.
    (template,) = server.named("headrace: template")
    (worker,) = server.named("headrace: worker 0")
    template.send_signal(signal.SIGSTOP)
    worker.kill()
    ready = wait_until(
        lambda: (seen := server.request("GET", "/health/ready")).status == 503 and seen, "still ready without a worker"
    )
    assert ready.json()["reasons"] == ["worker 0 is down"]
    assert ready.json()["workers"] == {"up": 0, "wanted": 1}
    assert server.request("GET", "/health/live").status == 200
    assert server.request("GET", "/ping").status == 503
    template.send_signal(signal.SIGCONT)
    wait_until(lambda: server.request("GET", "/health/ready").status == 200, "not ready again")


def test_health_is_answered_while_every_worker_is_busy(serve: Serve, tmp_path: Path) -> None:
    server = serve(write_model(tmp_path / "gated", GATED), HEADRACE_WORKERS="1")
    answers = [in_background(lambda: server.post("/models/gated/invoke", b"{}")) for _ in range(8)]
    wait_until((tmp_path / "gated" / "begun").exists, "no request was begun")
    for path in ("/health/live", "/health/ready", "/ping"):
        assert server.request("GET", path).status == 200
    (tmp_path / "gated" / "go").touch()
    assert {answer().status for answer in answers} == {200}


def test_a_drain_answers_what_is_under_way_and_closes(serve: Serve, tmp_path: Path) -> None:
    server = serve(write_model(tmp_path / "gated", GATED), HEADRACE_WORKERS="1")
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(b"POST /models/gated/invoke HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        wait_until((tmp_path / "gated" / "begun").exists, "the request was not begun")
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.find(" draining "), "no drain")
        (tmp_path / "gated" / "go").touch()
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert server.process.wait(60) == 0


def read_all(client: socket.socket) -> bytes:
    found = b""
    while piece := client.recv(65536):
        found += piece
    return found


def test_what_is_left_at_the_end_of_a_drain_is_answered_503(tmp_path: Path) -> None:
    server = Server(write_model(tmp_path / "gated", GATED), HEADRACE_WORKERS="1", HEADRACE_DRAIN="1s").ready()
    with server.connect() as running, server.connect() as half:
        running.sendall(b"POST /models/gated/invoke HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        half.sendall(b"POST /models/gated/invoke HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{")
        wait_until((tmp_path / "gated" / "begun").exists, "the request was not begun")
        under_way = "headrace_unanswered_requests"  # these two, and the one that asks
        wait_until(lambda: server.metric(under_way) == 3, "not both are under way")
        server.process.send_signal(signal.SIGTERM)
        for client in (running, half):
            assert read_all(client).startswith(b"HTTP/1.1 503 ")
        assert server.process.wait(60) == 0
    server.reader.join(60)
