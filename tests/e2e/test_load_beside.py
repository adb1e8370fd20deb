"""Loads go aside: what is served goes on, whatever a load does, and the workers that were forked for it go with it."""

import itertools
import os
from pathlib import Path

import psutil
import pytest
from conftest import ECHO, Serve, Server, in_background, wait_until, write_model

# Loads for as long as the file `go` is missing, holding the GIL but for moments; answers with its process.
SLOW = """
import os, time
from headrace import Model
class Slow(Model):
    def load(self, directory):
        (directory / "begun").write_text(str(os.getpid()))
        while not (directory / "go").exists():
            sum(range(10000))
        time.sleep(0.05)  # no load as long as this counts as cheap
    def handle(self, requests):
        return [{"pid": os.getpid()} for _ in requests]
"""
QUICK = """
import os
from headrace import Model
class Quick(Model):
    kind = KIND
    def handle(self, requests):
        return [{"pid": os.getpid()} for _ in requests]
"""


def begin(server: Server, path: Path):
    """POST /models of a model of the store, answered in the background."""
    document = {"model_name": path.name, "url": str(path)}
    return in_background(lambda: server.manage("POST", "/models", document))


def load(server: Server, path: Path) -> int:
    return server.manage("POST", "/models", {"model_name": path.name, "url": str(path)}).status


def pid(server: Server, name: str) -> int:
    answer = server.post(f"/models/{name}/invoke", b"{}")
    assert answer.status == 200, answer.body
    return answer.json()["pid"]


def workers(server: Server) -> set[int]:
    return {process.pid for process in server.named("headrace: worker")}


@pytest.fixture
def start(serve: Serve, tmp_path: Path):
    """start(NAME, ...) -> a server with one ordinary worker, which has `echo`, and slow models in its store."""

    def run(*names: str, **environment: str) -> Server:
        for name in names:
            write_model(tmp_path / name, SLOW)
        write_model(tmp_path / "echo", ECHO)
        return serve("--model-store", str(tmp_path), "--models", "echo", HEADRACE_WORKERS="1", **environment)

    return run


def echoes(server: Server) -> bool:
    return server.post("/models/echo/invoke", b"[1]").body == b"[1]"


def test_should_serve_while_a_load_takes_as_long_as_it_likes(start, tmp_path):
    server = start("slow")
    answer = begin(server, tmp_path / "slow")
    wait_until((tmp_path / "slow" / "begun").exists, "the load has not begun")
    young = int(wait_until((tmp_path / "slow" / "begun").read_text, "no pid"))
    assert os.sched_getscheduler(young) == os.SCHED_BATCH
    assert all(echoes(server) for _ in range(20))
    assert server.manage("GET", "/models/slow").json()["status"] == "loading"
    assert server.request("GET", "/ping").status == 200
    (tmp_path / "slow" / "go").touch()
    assert answer().status == 200
    assert pid(server, "slow") == young
    threads = os.listdir(f"/proc/{young}/task")
    assert {os.sched_getscheduler(int(thread)) for thread in threads} == {os.SCHED_OTHER}


def test_should_end_the_extra_worker_with_the_last_of_its_models(start, tmp_path):
    server = start("slow")
    before = server.held()
    (tmp_path / "slow" / "go").touch()
    assert load(server, tmp_path / "slow") == 200
    assert len(workers(server)) == 2
    young = pid(server, "slow")
    assert server.manage("DELETE", "/models/slow").status == 200
    assert not psutil.pid_exists(young), "an unload ends when the memory is back"
    assert server.metric("headrace_memory_charged_bytes") < 1 << 20
    server.check_holds_no_more_than(before)
    assert echoes(server)


def test_should_have_no_more_extra_workers_than_allowed(start, tmp_path):
    names = ["slow", "slower", "slowest"]
    server = start(*names, HEADRACE_EXTRA_WORKERS="1")
    for name in names:
        (tmp_path / name / "go").touch()
        assert load(server, tmp_path / name) == 200
    assert len(workers(server)) == 2
    assert len({pid(server, name) for name in names}) == 1, "where loads were slow already, others come too"
    assert server.manage("DELETE", "/models/slow").status == 200
    assert pid(server, "slower") == pid(server, "slowest")
    assert server.manage("DELETE", "/models/slower").status == 200
    assert server.manage("DELETE", "/models/slowest").status == 200
    wait_until(lambda: len(workers(server)) == 1, "the extra worker stays")


def test_should_load_in_place_where_no_extra_worker_may_be(start, tmp_path):
    server = start("slow", HEADRACE_EXTRA_WORKERS="0")
    (tmp_path / "slow" / "go").touch()
    assert load(server, tmp_path / "slow") == 200
    assert workers(server) == {pid(server, "slow")}


def test_should_load_what_is_known_to_be_cheap_in_the_worker_that_serves(start, tmp_path):
    server = start()
    (ordinary,) = workers(server)
    for kind in itertools.count():  # a machine that is busy elsewhere can make any load look slow
        path = tmp_path / f"quick{kind}"
        write_model(path, QUICK.replace("KIND", str(kind)))
        assert load(server, path) == 200
        if pid(server, path.name) == ordinary:
            break
        assert server.manage("DELETE", f"/models/{path.name}").status == 200
        assert kind < 50, "no load was ever found to be cheap"
    assert workers(server) == {ordinary}, "it was tried in another, which is gone"
    assert server.metric("headrace_memory_reserved_bytes") == 0


def test_should_have_loads_wait_for_their_turn_and_say_so(start, tmp_path):
    server = start("slow", "slower", "slowest", HEADRACE_LOADS="1")
    answers = [begin(server, tmp_path / "slow")]
    wait_until((tmp_path / "slow" / "begun").exists, "the load has not begun")
    answers.append(begin(server, tmp_path / "slower"))
    wait_until(lambda: "0 wait before it" in _reason(server, "slower"), "it does not wait")
    answers.append(begin(server, tmp_path / "slowest"))
    wait_until(lambda: "1 wait before it" in _reason(server, "slowest"), "it does not wait")
    assert server.manage("DELETE", "/models/slower").status == 200  # at once
    assert answers[1]().status == 409
    assert not (tmp_path / "slower" / "begun").exists()
    assert "0 wait before it" in _reason(server, "slowest")
    for name in ("slow", "slowest"):
        (tmp_path / name / "go").touch()
    assert [answers[0]().status, answers[2]().status] == [200, 200]
    assert _reason(server, "slowest") == ""
    assert echoes(server)


def _reason(server: Server, name: str) -> str:
    return server.manage("GET", f"/models/{name}").json().get("reason", "")


def test_should_cut_a_load_short_when_its_model_is_unloaded(start, tmp_path):
    server = start("slow")
    before = server.held()
    answer = begin(server, tmp_path / "slow")
    wait_until((tmp_path / "slow" / "begun").exists, "the load has not begun")
    assert server.manage("DELETE", "/models/slow").status == 200
    assert answer().status == 409
    server.check_holds_no_more_than(before)
    assert server.metric("headrace_memory_reserved_bytes") == 0


def test_should_leave_nothing_of_a_load_that_fails_aside(start, tmp_path):
    server = start()
    before = server.held()
    write_model(tmp_path / "broken", "from headrace import Model\nraise ValueError('no such luck')\n")
    write_model(tmp_path / "deadly", "import os\nfrom headrace import Model\nos._exit(3)\n")
    for name in ("broken", "deadly"):
        answer = server.manage("POST", "/models", {"model_name": name, "url": str(tmp_path / name)})
        assert answer.status == 500, answer.body
    server.check_holds_no_more_than(before)
    assert server.metric("headrace_memory_reserved_bytes") == 0


def test_should_bring_models_back_when_an_extra_worker_dies(start, tmp_path):
    server = start("slow", "slower", HEADRACE_EXTRA_WORKERS="1")
    for name in ("slow", "slower"):
        (tmp_path / name / "go").touch()
        assert load(server, tmp_path / name) == 200
    young = pid(server, "slow")
    psutil.Process(young).kill()
    assert pid(server, "slow") == pid(server, "slower") != young
    assert echoes(server)


def test_should_stay_aside_where_a_second_load_fails(start, tmp_path):
    server = start()
    once = "import os\n" + QUICK.replace(
        "    def handle", "    def load(self, directory):\n        os.mkdir(directory / 'loaded')\n    def handle"
    ).replace("KIND", "0")
    write_model(tmp_path / "once", once)
    assert load(server, tmp_path / "once") == 200
    assert pid(server, "once") in workers(server)
    assert echoes(server)
