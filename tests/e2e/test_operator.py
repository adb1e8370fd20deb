"""What an operator has: the commands that talk to a running server, explanations, the overview, and a drain by API."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys

import pytest
from conftest import ECHO, GATED, in_background, wait_until, write_model

TOKEN = "0123456789abcdef-secret"
FLAKY = """
from headrace import Model
class Flaky(Model):
    def handle(self, requests):
        raise ValueError("no luck with <img src=x onerror=alert(1)> \\x1b[31m")
"""
PATIENT = """
import time
from headrace import Model
class Patient(Model):
    def load(self, directory):
        while not (directory / "go").exists():
            time.sleep(0.005)
    def handle(self, requests):
        return [1 for _ in requests]
"""
HEAVY = """
import numpy as np
from headrace import Model
class Heavy(Model):
    def load(self, directory):
        self.weights = np.ones(40 << 17)
    def handle(self, requests):
        return [1 for _ in requests]
"""


def command(*words, **environment):
    """The result of `headrace WORDS`, whose standard error is no terminal."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HEADRACE_", "SAGEMAKER_"))}
    return subprocess.run(
        [sys.executable, "-m", "headrace", *words],
        env=env | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def url(server):
    return f"http://127.0.0.1:{server.management_port}"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    write_model(folder / "echo", ECHO)
    write_model(folder / "flaky", FLAKY)
    write_model(folder / "broken", "from headrace import Model\nraise ImportError('nothing by that name')\n")
    return folder


@pytest.fixture(scope="module")
def server(serve_module, store):
    return serve_module("--model-store", str(store), "--models", "echo", HEADRACE_WORKERS="1")


def test_models_come_and_go_by_command(server):
    here = {"HEADRACE_URL": url(server)}
    loaded = command("load", "second=echo", "flaky", "--url", url(server))
    assert loaded.stdout.startswith("second: loaded in")
    assert loaded.returncode == 1
    assert "flaky has no manifest" in loaded.stderr
    listed = command("models", **here)
    assert listed.returncode == 0
    assert listed.stdout.splitlines()[0].split() == ["MODEL", "STATUS", "REPLICAS", "MEMORY", "IDLE", "REASON"]
    assert {line.split()[0] for line in listed.stdout.splitlines()[1:3]} == {"echo", "second"}
    assert {model["name"] for model in json.loads(command("models", "--json", **here).stdout)} == {"echo", "second"}
    described = command("describe", "second", **here)
    assert "READY" in described.stdout
    assert json.loads(command("describe", "second", "--json", **here).stdout)["modelName"] == "second"
    assert command("unload", "second", **here).stdout == "second: unloaded\n"
    gone = command("describe", "second", **here)
    assert (gone.returncode, gone.stdout) == (1, "")
    assert gone.stderr == "headrace: Model not found: second\n"


def test_on_a_terminal_a_line_counts_the_seconds_of_a_load_and_is_gone_after_it(server, store):
    write_model(store / "patient", PATIENT)
    terminal, end = pty.openpty()
    words = [sys.executable, "-m", "headrace", "load", "patient=patient", "--url", url(server)]
    load = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=end, text=True)
    os.close(end)
    shown = ""
    while len(set(re.findall(r"loading patient \.\.\. (\d+\.\d) s", shown))) < 3:  # it counts while the model waits
        shown += os.read(terminal, 1024).decode()
    (store / "patient" / "go").touch()
    said, _ = load.communicate(timeout=60)
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while more := os.read(terminal, 1024).decode():
            shown += more
    os.close(terminal)
    assert load.returncode == 0
    assert re.fullmatch(r"patient: loaded in \d+\.\d\d s\n", said)
    assert re.fullmatch(r"(\r\x1b\[Kloading patient \.\.\. \d+\.\d s)+\r\x1b\[K", shown)
    assert command("unload", "patient", "--url", url(server)).returncode == 0


def test_what_goes_wrong_is_one_line_and_an_exit_code(server, tmp_path):
    failed = command("load", "broken=broken", "--url", url(server))
    assert failed.returncode == 1
    assert "nothing by that name" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1
    absent = command("models", "--url", "http://127.0.0.1:9")
    assert absent.returncode == 3
    assert "no server answers at http://127.0.0.1:9" in absent.stderr
    wrong_port = command("models", "--url", f"http://127.0.0.1:{server.port}")
    assert wrong_port.returncode == 1
    assert "is http://127.0.0.1:" in wrong_port.stderr
    for words in (["--url", "ftp://x"], ["--url", "http://x/path"], ["--token-file", str(tmp_path / "none")]):
        assert command("models", *words).returncode == 2, words
    assert command("load", "=x").returncode == 2


def test_a_failure_is_explained_with_its_traceback_even_when_the_model_is_gone(server):
    assert server.manage("POST", "/models", {"model_name": "ghost", "url": "broken"}).status == 500
    document = server.manage("GET", "/models/ghost/explain").json()
    assert (document["status"], document["room"]) == ("absent", None)
    assert document["history"][0]["event"] == "failed"
    assert "ImportError: nothing by that name" in document["errors"][0]["traceback"]
    assert server.manage("GET", "/models/never/explain").status == 404
    assert server.manage("POST", "/models/echo/explain", {}).status == 405
    assert server.request("GET", "/models/echo/explain").status == 404  # not on the inference port


def test_errors_of_predictions_are_told_with_their_worker_and_counted(server):
    assert server.manage("POST", "/models", {"model_name": "flaky", "url": "flaky"}).status == 200
    for _ in range(3):
        assert server.post("/models/flaky/invoke", b"{}").status == 500

    def explained():
        errors = server.manage("GET", "/models/flaky/explain").json()["errors"]
        return errors if errors and errors[0]["count"] == 3 else None

    (error,) = wait_until(explained, "the errors are not told")
    assert (error["worker"], error["event"]) == (0, "model.failed")
    assert error["error"].startswith("ValueError: no luck")
    assert 'raise ValueError("no luck' in error["traceback"]
    shown = command("explain", "flaky", "--url", url(server))
    assert shown.returncode == 0
    assert "flaky: resident" in shown.stdout
    assert "3 times" in shown.stdout
    assert "\x1b" not in shown.stdout


def test_an_explanation_names_what_would_have_to_go(serve, tmp_path):
    for i in range(7):
        write_model(tmp_path / f"m{i}", HEAVY)
    server = serve(
        "--model-store", str(tmp_path), "--models", "m0",
        HEADRACE_MEMORY_BUDGET="320MiB", HEADRACE_MIN_RESIDENT="0", HEADRACE_WORKERS="1", HEADRACE_ARENA="32MiB",
    )  # fmt: skip
    for i in range(1, 7):
        assert server.manage("POST", "/models", {"model_name": f"m{i}", "url": f"m{i}"}).status == 200
    evicted = next(i for i in range(7) if server.manage("GET", f"/models/m{i}").json()["status"] == "evicted")
    document = server.manage("GET", f"/models/m{evicted}/explain").json()
    assert document["status"] == "evicted"
    assert "evicted to make room for" in document["because"][0]
    assert document["memory"]["replica_bytes"] >= 40 << 20
    assert not document["room"]["fits"]
    victims = [it["model"] for it in document["room"]["evict"]]
    assert victims
    first = server.manage("GET", f"/models/{victims[0]}/explain").json()
    assert any("it is number 1 of" in line for line in first["because"])
    assert first["room"] is None
    # What was foretold is what happens.
    assert server.post(f"/models/m{evicted}/invoke", b"{}").status == 200
    assert {server.manage("GET", f"/models/{name}").json()["status"] for name in victims} == {"evicted"}
    events = server.manage("GET", f"/models/m{evicted}/explain").json()["history"]
    assert [event["event"] for event in events] == ["reloaded", "evicted", "loaded"]


def test_the_overview_tells_of_workers_models_and_memory(server):
    document = server.manage("GET", "/overview").json()
    assert document["server"]["pid"] == server.process.pid
    assert 0 < document["memory"]["used_bytes"] < document["memory"]["limit_bytes"]
    (worker,) = document["workers"]
    assert (worker["worker"], worker["is_up"], worker["at"]) == (0, True, None)
    echo = next(model for model in document["models"] if model["name"] == "echo")
    assert (echo["status"], echo["workers"], echo["reason"]) == ("resident", [0], "")
    assert document["history"][-1]["event"] == "loaded"
    assert server.manage("POST", "/overview").status == 405


def test_drain_answers_what_was_accepted_and_ends_the_server(serve, tmp_path):
    server = serve(write_model(tmp_path / "gated", GATED), HEADRACE_WORKERS="1")
    answer = in_background(lambda: server.post("/models/gated/invoke", b"{}"))
    wait_until((tmp_path / "gated" / "begun").exists, "the request does not run")
    drained = in_background(lambda: command("drain", "--url", url(server)))
    wait_until(lambda: server.find(r'draining by="POST /drain"'), "the drain does not begin")
    (tmp_path / "gated" / "go").touch()
    assert answer().status == 200
    result = drained()
    assert (result.returncode, result.stdout) == (0, "the server has ended\n")
    assert server.process.wait(60) == 0


def test_one_port_for_all_is_not_ended_by_whoever_reaches_it(serve, tmp_path):
    server = serve(SAGEMAKER_MULTI_MODEL="true", HEADRACE_HOST="127.0.0.1", HEADRACE_WORKERS="1")
    refused = command("drain", "--url", f"http://127.0.0.1:{server.port}")
    assert refused.returncode == 1
    assert "HEADRACE_TOKEN_FILE" in refused.stderr


def test_with_the_scope_changes_anybody_may_read_and_the_token_is_for_changes(serve, tmp_path):
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    store = tmp_path / "store"
    write_model(store / "echo", ECHO)
    server = serve(
        "--model-store", str(store), "--models", "echo",
        HEADRACE_TOKEN_FILE=str(token), HEADRACE_TOKEN_SCOPE="changes", HEADRACE_WORKERS="1",
    )  # fmt: skip
    for path in ("/models", "/metrics", "/overview", "/models/echo/explain"):
        assert server.manage("GET", path).status == 200, path
    assert server.manage("OPTIONS", "/").status == 200
    for method, path in (("POST", "/models"), ("DELETE", "/models/echo"), ("PUT", "/models/echo"), ("POST", "/drain")):
        assert server.manage(method, path).status == 401, (method, path)
    refused = command("unload", "echo", "--url", url(server))
    assert refused.returncode == 1
    assert "--token-file" in refused.stderr
    assert command("unload", "echo", "--url", url(server), HEADRACE_TOKEN_FILE=str(token)).returncode == 0
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0
