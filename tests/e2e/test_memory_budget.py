"""The memory budget of a whole server: evicted models come back, what cannot fit is refused, and the sum holds."""

import threading

import psutil
import pytest
from conftest import Server, wait_until, write_model

MIB = 1 << 20
# Weights that are touched, of a size that the directory's files do not tell, and an answer that says whose they are.
WEIGHTS = """
import pathlib
import time
import numpy as np
from headrace import Model
class Weights(Model):
    def load(self, directory):
        with (directory / "loads").open("a") as file:
            file.write("x")
        mib, self.value = map(int, (directory / "spec").read_text().split())
        self.weights = np.full(mib << 17, self.value, np.float64)
    def handle(self, requests):
        if b"sleep" in bytes(requests[0].body):
            (pathlib.Path({gate!r}) / "asleep").touch()
            while not (pathlib.Path({gate!r}) / "awake").exists():
                time.sleep(0.005)
        return [int(self.weights[-1]) for _ in requests]
"""
BUDGET = {"HEADRACE_MIN_RESIDENT": "0", "HEADRACE_WORKERS": "1", "HEADRACE_ARENA": "32MiB"}
IN_PLACE = {"HEADRACE_EXTRA_WORKERS": "0"}  # one worker has all models, so that it is known how many fit


@pytest.fixture
def models(tmp_path):
    """models(COUNT, MIB) writes m0, m1, ... and gives their store."""

    def write(count: int, mib: int):
        for i in range(count):
            write_model(tmp_path / f"m{i}", WEIGHTS.format(gate=str(tmp_path)), spec=f"{mib} {i}")
        return tmp_path

    return write


def load(server: Server, name: str, path) -> tuple[int, str]:
    answer = server.manage("POST", "/models", {"model_name": name, "url": str(path)})
    return answer.status, answer.body.decode()


def loads(store, name: str) -> int:
    return len((store / name / "loads").read_text())


def status(server: Server, name: str) -> str:
    return server.manage("GET", f"/models/{name}").json()["status"]


def start(serve, store, mib: int = 320, **environment: str) -> Server:
    """A server whose budget leaves some 250 of 320 MiB to models."""
    store_options = ("--model-store", str(store), "--models", "m0")
    return serve(*store_options, **{**BUDGET, **IN_PLACE, "HEADRACE_MEMORY_BUDGET": f"{mib}MiB", **environment})


def invoke(server: Server, name: str, body: bytes = b"{}") -> object:
    answer = server.post(f"/models/{name}/invoke", body)
    return answer.json() if answer.status == 200 else (answer.status, answer.body.decode())


def test_should_evict_the_least_recently_used_model_and_bring_it_back_with_its_next_request(serve, models):
    store = models(7, 38)
    server = start(serve, store)
    for i in range(1, 6):
        assert load(server, f"m{i}", store / f"m{i}")[0] == 200
    assert invoke(server, "m0") == 0
    assert load(server, "m6", store / "m6")[0] == 200
    described = server.manage("GET", "/models/m1").json()
    assert (described["status"], described["reason"]) == ("evicted", "evicted to make room for m6")
    assert server.find(r'(?m)model\.evicted model=m1 reason="to make room for m6" bytes=\d+ resident_s=[\d.]+$')
    assert [status(server, f"m{i}") for i in (0, 2, 6)] == ["resident"] * 3
    assert len(server.manage("GET", "/models").json()["models"]) == 7  # it stays listed
    assert load(server, "m1", store / "m1")[0] == 409  # and its name taken
    assert invoke(server, "m1") == 1
    assert (status(server, "m1"), loads(store, "m1")) == ("resident", 2)
    assert server.find(r'model\.reloaded model=m1 reason="a request came" bytes=\d+')
    assert status(server, "m2") == "evicted"
    assert server.manage("DELETE", "/models/m2").status == 200
    assert server.post("/models/m2/invoke", b"{}").status == 404
    assert server.metric("headrace_evictions_total") >= 2
    assert server.metric("headrace_memory_used_bytes") <= 320 * MIB


def test_should_load_once_for_all_requests_that_wait(serve, models):
    store = models(7, 38)
    server = start(serve, store)
    for i in range(1, 7):
        assert load(server, f"m{i}", store / f"m{i}")[0] == 200
    assert status(server, "m0") == "evicted"
    answers: list[object] = []
    threads = [threading.Thread(target=lambda: answers.append(invoke(server, "m0"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (answers, loads(store, "m0")) == ([0] * 8, 2)


def test_should_refuse_what_cannot_fit_before_any_harm_and_name_both_sizes(serve, models):
    store = models(3, 40)
    with (store / "m2" / "weights.bin").open("wb") as file:
        file.truncate(3 << 30)
    server = start(serve, store)
    assert load(server, "m1", store / "m1")[0] == 200
    code, text = load(server, "m2", store / "m2")
    assert code == 507
    assert "3.0 GiB" in text
    assert "320.0 MiB" in text
    assert not (store / "m2" / "loads").exists()
    assert [status(server, name) for name in ("m0", "m1")] == ["resident"] * 2
    assert server.manage("GET", "/models/m2").status == 404


def test_should_take_back_a_load_that_turns_out_too_large(serve, models):
    store = models(2, 40)
    (store / "m1" / "spec").write_text("400 1")
    server = start(serve, store)
    code, text = load(server, "m1", store / "m1")
    assert code == 507
    assert "needs 400.0 MiB" in text
    assert invoke(server, "m0") == 0
    assert server.metric("headrace_memory_used_bytes") < 200 * MIB


def test_should_refuse_rather_than_evict_where_eviction_is_off(serve, models):
    store = models(8, 40)
    server = start(serve, store, HEADRACE_EVICTION="none")
    codes = [load(server, f"m{i}", store / f"m{i}") for i in range(1, 8)]
    refused = [text for code, text in codes if code == 507]
    assert refused
    assert "HEADRACE_EVICTION=none" in refused[0]
    assert invoke(server, "m0") == 0
    assert loads(store, "m0") == 1
    assert server.metric("headrace_evictions_total") == 0
    assert server.metric("headrace_refused_loads_total") == len(refused)


def test_should_evict_neither_pinned_models_nor_busy_ones(serve, models):
    store = models(9, 40)
    (store / "m0" / "headrace.toml").write_text("pinned = true\n")
    server = start(serve, store)
    assert load(server, "m1", store / "m1")[0] == 200
    sock = server.connect()
    sock.sendall(b"POST /models/m1/invoke HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nsleep")
    wait_until((store / "asleep").exists, "the request is not under way")
    # One worker has them all, so that loads wait for the model that sleeps.
    threads = [threading.Thread(target=load, args=(server, f"m{i}", store / f"m{i}")) for i in range(2, 9)]
    for thread in threads:
        thread.start()
    (store / "awake").touch()
    for thread in threads:
        thread.join()
    assert sock.recv(1000).endswith(b"1")
    assert status(server, "m0") == "resident"
    assert loads(store, "m0") == 1


def test_should_say_why_an_evicted_model_cannot_come_back_and_try_again(serve, models):
    store = models(7, 38)
    server = start(serve, store)
    for i in range(1, 7):
        assert load(server, f"m{i}", store / f"m{i}")[0] == 200
    source = (store / "m0" / "model.py").read_text()
    (store / "m0" / "model.py").write_text("from headrace import Model\nraise ValueError('no such luck')\n")
    code, text = invoke(server, "m0")
    assert code == 500
    assert "no such luck" in text
    assert "no such luck" in server.manage("GET", "/models/m0").json()["reason"]
    (store / "m0" / "model.py").write_text(source)
    assert invoke(server, "m0") == 0
    assert "reason" not in server.manage("GET", "/models/m0").json()


@pytest.mark.parametrize(("extra_workers", "turns"), [(0, 40), (8, 12)])
def test_should_hold_the_budget_while_models_come_and_go(serve, models, extra_workers, turns):
    store = models(24, 20)
    server = start(serve, store, 256, HEADRACE_EXTRA_WORKERS=str(extra_workers))
    for i in range(1, 24):
        assert load(server, f"m{i}", store / f"m{i}")[0] == 200
    wrong: list[object] = []

    def client(number: int) -> None:
        for turn in range(turns):
            i = (number * 7 + turn * turn) % 24
            if (answer := invoke(server, f"m{i}")) != i:
                wrong.append(answer)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    peak = 0
    while any(thread.is_alive() for thread in threads):
        peak = max(peak, sum(_uss(process) for process in server.named("headrace: worker")))
    for thread in threads:
        thread.join()
    assert wrong == []
    assert server.metric("headrace_evictions_total") > 20
    assert peak <= 256 * MIB
    wait_until(lambda: server.metric("headrace_memory_used_bytes") <= 256 * MIB, "the budget is exceeded")


LEAK = """
import builtins
import numpy as np
from headrace import Model
class Leak(Model):
    def handle(self, requests):
        if b"leak" in bytes(requests[0].body):
            builtins.__dict__.setdefault("_leaked", []).append(np.ones(120 << 17))
        return [1 for _ in requests]
"""


def test_should_recycle_a_worker_that_holds_memory_nobody_is_charged_for_without_a_failed_request(serve, models):
    store = models(4, 40)
    write_model(store / "leak", LEAK)
    for i in range(1, 4):
        with (store / f"m{i}" / "weights.bin").open("wb") as file:
            file.truncate(40 * MIB)  # so that the size of the files tells that of the model
    server = start(serve, store, HEADRACE_EVICTION="none")
    (before,) = (process.pid for process in server.named("worker"))
    assert load(server, "leak", store / "leak")[0] == 200
    assert invoke(server, "leak", b'"leak"') == 1
    wait_until(lambda: server.metric("headrace_memory_used_bytes") > 200 * MIB, "the leak is not seen")
    wrong: list[object] = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            if (answer := invoke(server, "m0")) != 0:
                wrong.append(answer)

    thread = threading.Thread(target=client)
    thread.start()
    try:
        codes = [load(server, f"m{i}", store / f"m{i}") for i in (1, 2, 3)]
    finally:
        stop.set()
        thread.join()
    assert [code for code, _ in codes] == [200] * 3, codes
    assert wrong == []
    assert server.metric("headrace_recyclings_total") == 1
    assert [process.pid for process in server.named("worker")] != [before]
    assert [invoke(server, name) for name in ("m0", "m1", "m2", "m3", "leak")] == [0, 1, 2, 3, 1]
    assert server.metric("headrace_memory_used_bytes") < 320 * MIB


def _uss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().uss)
    except psutil.Error:
        return 0
