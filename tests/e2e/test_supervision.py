"""The whole server: what the supervisor does when processes die, models come and go, and signals arrive."""

import contextlib
import random
import signal
import socket
import threading
from collections.abc import Callable
from operator import le
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ECHO, GATED, Serve, Server, in_background, is_alive, wait_until

HANDLER = """
import os
def handle(data, context):
    return None if data is None else [{"pid": os.getpid()} for _ in data]
"""

ModelDir = Callable[[str, str], str]


def kill(server: Server, title: str) -> int:
    """SIGKILL the one process of that title; returns its pid."""
    (process,) = server.named(title)
    process.kill()
    return process.pid


def successor(server: Server, title: str, pid: int) -> psutil.Process:
    return wait_until(lambda: next((p for p in server.named(title) if p.pid != pid), None), f"no new {title}")


def test_every_process_is_the_supervisors_own_child(serve: Serve, model_dir: ModelDir) -> None:
    server = serve(model_dir("echo", ECHO), HEADRACE_WORKERS="2", HEADRACE_FRONTENDS="2")
    for title, count in (("template", 1), ("frontend", 2), ("worker", 2)):
        processes = server.named(f"headrace: {title}")
        assert len(processes) == count
        assert {process.ppid() for process in processes} == {server.process.pid}
    assert len(server.named("headrace: supervisor")) == 1
    assert server.request("GET", "/ping").json() == {"status": "Healthy"}


def test_a_killed_worker_is_replaced_and_its_models_come_back(serve: Serve, model_dir: ModelDir) -> None:
    server = serve(model_dir("echo", ECHO), model_dir("other", ECHO), HEADRACE_WORKERS="1")
    for _ in range(3):
        pid = kill(server, "headrace: worker 0")
        assert server.post("/models/echo/invoke", b"[1]").body == b"[1]"
        assert server.post("/models/other/invoke", b"[2]").body == b"[2]"
        assert server.find(rf"worker\.lost worker=0 pid={pid} signal=SIGKILL")
    assert server.manage("GET", "/models/echo").json()["status"] == "resident"


def test_a_request_that_a_dying_worker_held_is_answered_by_its_successor(serve: Serve, model_dir: ModelDir) -> None:
    spec = model_dir("gated", GATED)
    directory = Path(spec.partition("=")[2])
    server = serve(spec, HEADRACE_WORKERS="1")
    answer = in_background(lambda: server.post("/models/gated/invoke", b"{}"))
    wait_until((directory / "begun").exists, "the request was not begun")
    pid = kill(server, "headrace: worker 0")
    (directory / "go").touch()
    assert answer().status == 200
    assert answer().json()["pid"] not in (pid, None)


def test_a_killed_frontend_is_replaced_on_the_same_port(serve: Serve, model_dir: ModelDir) -> None:
    server = serve(model_dir("echo", ECHO), HEADRACE_WORKERS="1")
    for _ in range(3):
        pid = kill(server, "headrace: frontend 0")
        successor(server, "headrace: frontend 0", pid)
        assert server.post("/models/echo/invoke", b"[1]").body == b"[1]"


def test_a_dead_frontends_segment_goes_and_what_it_asked_is_answered_into_nothing(
    serve: Serve, model_dir: ModelDir
) -> None:
    spec = model_dir("gated", GATED)
    directory = Path(spec.partition("=")[2])
    server = serve(spec, model_dir("echo", ECHO), HEADRACE_WORKERS="1")
    (worker,) = server.named("headrace: worker 0")
    supervisor = psutil.Process(server.process.pid)

    def held() -> tuple[int, int, int]:
        """Segments mapped in the worker, and descriptors of both."""
        maps = Path(f"/proc/{worker.pid}/maps").read_text().splitlines()
        return sum("headrace-segment" in line for line in maps), worker.num_fds(), supervisor.num_fds()

    assert server.post("/models/echo/invoke", b"[1]").body == b"[1]"
    before = held()
    for _ in range(3):
        (directory / "begun").unlink(missing_ok=True)
        (directory / "go").unlink(missing_ok=True)
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"POST /models/gated/invoke HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
            wait_until((directory / "begun").exists, "the request was not begun")
            pid = kill(server, "headrace: frontend 0")
            successor(server, "headrace: frontend 0", pid)
        (directory / "go").touch()
        assert server.post("/models/echo/invoke", b"[1]").body == b"[1]"
    assert server.named("headrace: worker 0") == [worker]
    wait_until(lambda: all(map(le, held(), before)), f"segments and descriptors were {before} and are {held()}")
    assert server.metric("headrace_slots_leased") == 0


def test_workers_are_replaced_after_the_template_was_killed(serve: Serve, model_dir: ModelDir) -> None:
    server = serve(model_dir("echo", ECHO), HEADRACE_WORKERS="1")
    pid = kill(server, "headrace: template")
    kill(server, "headrace: worker 0")
    assert server.post("/models/echo/invoke", b"[1]").body == b"[1]"
    successor(server, "headrace: template", pid)


def test_models_come_and_go_and_leave_nothing(serve: Serve, model_dir: ModelDir, tmp_path: Path) -> None:
    (tmp_path / "handler").mkdir()
    (tmp_path / "handler" / "service.py").write_text(HANDLER)
    model_dir("more", ECHO)
    server = serve(model_dir("echo", ECHO), "--model-store", str(tmp_path), HEADRACE_WORKERS="1")
    root = psutil.Process(server.process.pid)

    def cycle() -> None:
        handler = {"url": "handler", "model_name": "h", "handler": "service.py:handle", "initial_workers": 2}
        assert server.manage("POST", "/models", {"url": "more", "model_name": "m"}).status == 200
        assert server.manage("POST", "/models", handler).status == 200
        assert server.manage("POST", "/models", handler).status == 409
        assert server.post("/models/m/invoke", b"[3]").body == b"[3]"
        workers = {process.pid for process in server.named("headrace: worker")}
        assert len(workers) == 3
        assert server.post("/models/h/invoke", b"{}").json()["pid"] in workers
        assert server.manage("DELETE", "/models/h").status == 200
        assert len(server.named("headrace: worker")) == 1  # with the answer they are gone
        assert server.manage("DELETE", "/models/m").status == 200
        assert server.post("/models/m/invoke", b"[3]").status == 404

    def holdings() -> list[tuple[int, int]]:
        return [(process.pid, process.num_fds()) for process in [root, *root.children()]]

    cycle()
    before = holdings()  # perhaps with a connection that is just closing, so less is no loss
    for _ in range(3):
        cycle()
    wait_until(
        lambda: all(now[0] == then[0] and now[1] <= then[1] for now, then in zip(holdings(), before, strict=True)),
        f"processes and descriptors were {before} and are {holdings()}",
    )


def test_a_sagemaker_multi_model_server_begins_empty_and_loads_by_path(
    serve: Serve, model_dir: ModelDir, tmp_path: Path
) -> None:
    model_dir("echo", ECHO)
    server = serve(SAGEMAKER_MULTI_MODEL="true", HEADRACE_HOST="127.0.0.1", HEADRACE_WORKERS="1")
    assert server.request("GET", "/ping").status == 200
    assert server.request("GET", "/models").json() == {"models": []}
    body = '{\n"model_name": "one",\n"url": "%s",\n}' % (tmp_path / "echo")  # with the documents' trailing comma
    assert server.post("/models", body.encode()).status == 200
    assert server.post("/models", body.encode()).status == 409
    assert server.post("/models/one/invoke", b"[1]").body == b"[1]"
    assert server.request("GET", "/models/one").json()["modelUrl"] == str(tmp_path / "echo")
    assert server.request("DELETE", "/models/one").status == 200
    assert server.request("DELETE", "/models/one").status == 404
    assert server.request("GET", "/metrics").status == 200  # one port for everything


def test_metrics_tell_of_frontends_workers_and_models(serve: Serve, model_dir: ModelDir) -> None:
    server = serve(model_dir("echo", ECHO), HEADRACE_WORKERS="2", HEADRACE_FRONTENDS="2")
    for _ in range(5):
        assert server.post("/models/echo/invoke", b"[1]").status == 200
    page = server.request("GET", "/metrics", management=True)
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert server.metric("headrace_worker_requests_total") == 5
    assert 'headrace_models{state="resident"} 1.0' in page.body.decode()
    assert server.request("GET", "/metrics").status == 404  # the inference port


def test_a_model_that_does_not_load_again_fails_and_gives_its_worker_up(model_dir: ModelDir, tmp_path: Path) -> None:
    (tmp_path / "handler").mkdir()
    (tmp_path / "handler" / "service.py").write_text(HANDLER)
    server = Server(model_dir("echo", ECHO), "--model-store", str(tmp_path), HEADRACE_WORKERS="1").ready()
    try:
        document = {"url": "handler", "model_name": "h", "handler": "service.py:handle"}
        assert server.manage("POST", "/models", document).status == 200
        (tmp_path / "handler" / "service.py").write_text("import nothing_like_it")
        kill(server, "headrace: worker 1")
        described = wait_until(
            lambda: (now := server.manage("GET", "/models/h").json())["status"] == "failed" and now, "not failed"
        )
        assert "No module named 'nothing_like_it'" in described["reason"]
        assert server.post("/models/h/invoke", b"{}").status == 404
        wait_until(lambda: len(server.named("headrace: worker")) == 1, "its worker stayed")
        (tmp_path / "handler" / "service.py").write_text(HANDLER)
        assert server.manage("POST", "/models", document).status == 200  # a failed model gives way
        assert server.post("/models/h/invoke", b"{}").status == 200
    finally:
        assert server.stop() == 0


def test_the_only_model_that_fails_ends_the_start(model_dir: ModelDir) -> None:
    server = Server(model_dir("broken", "import headrace, nothing_like_it"))
    assert server.process.wait(60) == 1
    server.reader.join(60)
    assert server.find("boot_failed .*No module named 'nothing_like_it'")
    assert not server.find(" ready ")


def test_of_several_models_the_others_serve(model_dir: ModelDir, tmp_path: Path) -> None:
    odd = model_dir("odd", ECHO)
    (tmp_path / "odd" / "headrace.toml").write_text("replicas = 0")
    server = Server(model_dir("broken", "import headrace, nothing_like_it"), odd, model_dir("echo", ECHO)).ready()
    try:
        assert server.post("/models/echo/invoke", b"[1]").body == b"[1]"
        for name, reason in (("broken", "No module named 'nothing_like_it'"), ("odd", "replicas = 0 is wrong")):
            described = server.manage("GET", f"/models/{name}").json()
            assert described["status"] == "failed"
            assert reason in described["reason"]
        assert server.request("GET", "/ping").status == 200
    finally:
        assert server.stop() == 0


def test_an_address_in_use_is_a_clear_error(model_dir: ModelDir) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = Server(model_dir("echo", ECHO), HEADRACE_PORT=str(port))
        assert server.process.wait(60) == 1
    server.reader.join(60)
    assert server.find(f"boot_failed .*address 127.0.0.1:{port} is in use: .*HEADRACE_PORT")


def test_sigterm_answers_what_was_accepted(serve: Serve, model_dir: ModelDir) -> None:
    spec = model_dir("gated", GATED)
    directory = Path(spec.partition("=")[2])
    server = serve(spec, HEADRACE_WORKERS="1")
    answer = in_background(lambda: server.post("/models/gated/invoke", b"{}"))
    wait_until((directory / "begun").exists, "the request was not begun")
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: server.find(" draining "), "no drain")
    wait_until(lambda: not is_accepting(server.port), "still accepting")
    (directory / "go").touch()
    assert answer().status == 200
    assert server.process.wait(60) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(model_dir: ModelDir, second: signal.Signals) -> None:
    spec = model_dir("gated", GATED)
    directory = Path(spec.partition("=")[2])
    server = Server(spec, HEADRACE_WORKERS="1").ready()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST /models/gated/invoke HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        wait_until((directory / "begun").exists, "the request was not begun")
        family = server.family()
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.find(" draining "), "no drain")
        server.process.send_signal(second)
        assert server.process.wait(60) == 128 + second
    server.reader.join(60)
    wait_until(lambda: not any(map(is_alive, family)), "a process stayed behind")


def test_after_a_storm_of_kills_everything_is_whole_again(serve: Serve, model_dir: ModelDir, tmp_path: Path) -> None:
    """Workers and templates die at random moments of requests, loads and unloads; no accepted request may be lost."""
    (tmp_path / "handler").mkdir()
    (tmp_path / "handler" / "service.py").write_text(HANDLER)
    model_dir("more", ECHO)
    server = serve(model_dir("echo", ECHO), "--model-store", str(tmp_path), HEADRACE_WORKERS="2", HEADRACE_RETRIES="10")
    storm_is_over = threading.Event()

    def invoke(client: int) -> int:
        count = 0
        while not storm_is_over.is_set():
            count += 1
            body = b"[%d, %d]" % (client, count)
            answer = server.post("/models/echo/invoke", body)
            assert (answer.status, answer.body) == (200, body)
        return count

    def load_and_unload(document: dict[str, Any]) -> int:
        count = 0
        while not storm_is_over.is_set() or not count:
            loaded = server.manage("POST", "/models", document)
            assert loaded.status in (200, 500, 503, 507), loaded.body  # all but 200: its worker was killed
            if loaded.status == 200:
                count += 1
                assert server.manage("DELETE", f"/models/{document['model_name']}").status == 200
        return count

    handler = {"url": "handler", "model_name": "h", "handler": "service.py:handle", "initial_workers": 2}
    results = [in_background(lambda client=client: invoke(client)) for client in range(3)]
    results += [
        in_background(lambda: load_and_unload({"url": "more", "model_name": "m", "initial_workers": 2})),
        in_background(lambda: load_and_unload(handler)),
    ]
    dice = random.Random(5)
    for _ in range(25):
        victims = server.named("headrace: worker") + server.named("headrace: template")
        with contextlib.suppress(psutil.NoSuchProcess):  # a dedicated one, retired meanwhile
            for victim in dice.sample(victims, min(1, len(victims))):
                victim.kill()
        storm_is_over.wait(0.2 * dice.random())
    storm_is_over.set()
    assert min(result() for result in results) > 0
    wait_until(lambda: server.request("GET", "/ping").json() == {"status": "Healthy"}, "not all workers are up")
    assert server.manage("GET", "/models").json()["models"] == [
        {"modelName": "echo", "modelUrl": str(tmp_path / "echo")}
    ]
    ready = [{"id": "0", "status": "READY"}, {"id": "1", "status": "READY"}]
    wait_until(lambda: where_is(server, "echo") == ready, "the model did not come back everywhere")
    assert server.metric("headrace_slots_leased") == 0
    assert len(server.named("headrace: worker")) == 2


def where_is(server: Server, model: str) -> list[dict[str, str]]:
    workers = server.manage("GET", f"/models/{model}").json()["workers"]
    return [{key: worker[key] for key in ("id", "status")} for worker in workers]


def is_accepting(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True
