"""`headrace bench` against a real server, in a process of its own as a user runs it."""

import json
import os
import subprocess
import sys

from conftest import ECHO, write_model


def bench(*words):
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HEADRACE_", "SAGEMAKER_"))}
    command = [sys.executable, "-m", "headrace", "bench", *words, "--duration", "300ms", "--warmup", "100ms"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_models_of_a_server_are_measured_and_judged(serve, tmp_path):
    models = [write_model(tmp_path / name, ECHO) for name in ("one", "two")]
    server = serve(*models, HEADRACE_WORKERS="1")
    url, file = f"http://127.0.0.1:{server.port}/models/{{model}}/invoke", tmp_path / "report.json"
    words = (url, "--generate", "npy:1x16", "--rate", "200", "--model", "one", "--slo", "errors=0", "--json", str(file))
    done = bench(*words, "--model", "two")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    document = json.loads(file.read_text())
    assert document["planned"] == document["good"] == 60
    assert [it["name"] for it in document["requests"]] == ["one", "two"]
    assert all(it["good"] == it["sent"] > 0 for it in document["requests"])

    done = bench(*words, "--model", "absent")
    assert done.returncode == 3
    assert done.stderr.startswith("headrace: errors=0 missed: ")
    assert "404: " in done.stdout
