"""multi-model-server and torchserve as containers use them: background start, the process's argument, pid file, end."""

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from headrace.server_file import MMS, TORCHSERVE
from tests.e2e.conftest import WATCHDOG_S, wait_until

SCRIPTS = Path(sysconfig.get_path("scripts"))
HANDLER = """
import os
def handle(data, context):
    return [str([os.environ.get("A_SECRET"), type(item["body"]).__name__]) for item in data] if data else None
"""


@pytest.fixture
def place(tmp_path):
    """A store with one handler, and the file config.properties, in a directory of their own."""
    model = tmp_path / "store" / "m"
    (model / "MAR-INF").mkdir(parents=True)
    manifest = {"runtime": "python", "model": {"modelName": "m", "handler": "service.py:handle"}}
    (model / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    (model / "service.py").write_text(HANDLER)
    (tmp_path / "log.xml").write_text("<Configuration/>")
    port = free_port()
    (tmp_path / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{port}\nmanagement_address=http://127.0.0.1:{port}\n"
        "default_workers_per_model=1\nvmargs=-Xmx1g\nblacklist_env_vars=A_.*\ndecode_input_request=false\n"
    )
    return Place(tmp_path, port)


class Place:
    def __init__(self, directory, port):
        self.directory, self.port = directory, port

    def run(self, command, *words):
        """The command, as an installed script."""
        with open(self.directory / "out", "ab") as out, open(self.directory / "err", "ab") as err:
            return subprocess.run(
                [SCRIPTS / command, *words],
                env=self.environ(),
                cwd=self.directory,
                stdout=out,
                stderr=err,
                timeout=WATCHDOG_S,
                check=False,
            ).returncode

    def environ(self):
        env = {key: value for key, value in os.environ.items() if not key.startswith(("HEADRACE_", "SAGEMAKER_"))}
        return env | {"TMPDIR": str(self.directory), "A_SECRET": "x", "PYTHONFAULTHANDLER": "1"}

    def text(self, name="err"):
        return (self.directory / name).read_text()

    def servers(self, marker):
        """Processes that a container would take for the server."""
        found = []
        for process in psutil.process_iter():
            try:
                is_server = process.status() != psutil.STATUS_ZOMBIE and marker in process.cmdline()
                if is_server and process.environ().get("TMPDIR") == str(self.directory):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def request(self, path, body=None):
        headers = {"content-type": "application/octet-stream"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=WATCHDOG_S) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode()
        except (urllib.error.URLError, ConnectionError):
            return None


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.mark.parametrize(
    ("command", "dialect"), [("multi-model-server", MMS), ("mxnet-model-server", MMS), ("torchserve", TORCHSERVE)]
)
def test_started_found_used_and_stopped_as_the_original(place, command, dialect):
    words = ("--model-store", "store", dialect.flag, "config.properties", "--log-config", "log.xml")
    try:
        assert place.run(command, "--start", *words, "--models", "m=m") == 0, place.text()
        wait_until(lambda: (place.request("/ping") or "").count('"Healthy"'), "no healthy ping")
        (server,) = place.servers(dialect.marker)
        assert place.text(".model_server.pid").strip() == str(server.pid)
        assert place.request("/predictions/m", b"{}") == "[None, 'bytearray']"
        assert json.loads(place.request("/models"))["models"][0]["modelName"] == "m"
        assert place.run(command, "--start", *words) == 1
        assert "already running" in place.text()
        family = [server, *server.children(recursive=True)]
    finally:
        assert place.run(command, "--stop") == 0
    _, alive = psutil.wait_procs(family, WATCHDOG_S)
    assert alive == []
    assert not (place.directory / ".model_server.pid").exists()
    assert place.run(command, "--stop") == 0
    assert "not currently running" in place.text("out")
    assert "without_meaning_here keys=vmargs" in place.text()


def test_in_the_foreground_it_is_the_server_and_ends_with_sigterm(place):
    command = [SCRIPTS / "multi-model-server", "--start", "--foreground", "--model-store", "store"]
    with open(place.directory / "err", "ab") as err:
        server = subprocess.Popen(command, env=place.environ(), cwd=place.directory, stderr=err)
    try:
        wait_until(lambda: place.request("/ping"), "no ping")
        assert [process.pid for process in place.servers(MMS.marker)] == [server.pid]
        with open(place.directory / "config.properties", "a") as file:
            file.write("job_queue_size=77\n")
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: "settings.read changed=queue" in place.text(), "the file is not read again")
        queue = json.loads(place.request("/settings"))["settings"]["queue"]
        assert (queue["value"], queue["from"]) == ("77", "SIGHUP, job_queue_size")
        server.terminate()
        assert server.wait(WATCHDOG_S) == 0
    finally:
        server.kill()
        server.wait()


def test_an_only_model_that_fails_leaves_the_server_unhealthy_until_it_is_mended(place):
    service = place.directory / "store" / "m" / "service.py"
    good = service.read_text()
    service.write_text("import nothing_of_that_name\n")
    command = [SCRIPTS / "multi-model-server", "--foreground", "--model-store", "store", "--models", "m=m"]
    with open(place.directory / "err", "ab") as err:
        server = subprocess.Popen(command, env=place.environ(), cwd=place.directory, stderr=err)
    try:
        wait_until(lambda: " ready " in place.text(), "not up")
        assert json.loads(place.request("/ping")) == {"status": "Unhealthy"}
        document = json.loads(place.request("/models/m"))
        assert document["status"] == "failed"
        assert "nothing_of_that_name" in document["reason"]
        service.write_text(good)
        assert "registered" in place.request("/models?url=m", b"")
        wait_until(lambda: "Unhealthy" not in place.request("/ping"), "still unhealthy")
        assert place.request("/invocations", b"{}") == "[None, 'bytearray']"
    finally:
        server.terminate()
        assert server.wait(WATCHDOG_S) == 0, place.text()


def test_a_pid_file_of_another_process_is_not_heeded(place):
    (place.directory / ".model_server.pid").write_text(str(os.getpid()))
    assert place.run("multi-model-server", "--stop") == 0
    assert not (place.directory / ".model_server.pid").exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--mms-config", "absent"), "--mms-config absent: no such file"),
        (("--log-config", "absent"), "--log-config absent: no such file"),
        (("--model-store", "absent"), "absent: no such directory"),
        (("--models", "m=m"), "--models needs --model-store"),
        (("--nonsense",), "unrecognized arguments: --nonsense"),
    ],
)
def test_mistakes_end_with_1_and_say_what_is_wrong(place, words, why):
    assert place.run("multi-model-server", "--start", *words) == 1
    assert why in place.text()
    assert place.servers(MMS.marker) == []


def test_where_the_real_server_is_installed_its_command_runs(tmp_path):
    metadata = tmp_path / "multi_model_server-1.1.11.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: multi-model-server\nVersion: 1.1.11\n")
    (metadata / "entry_points.txt").write_text("[console_scripts]\nmulti-model-server = original:start\n")
    (tmp_path / "original.py").write_text("import sys\ndef start():\n    print('the original', *sys.argv[1:])\n")
    code = "import sys; from headrace.model_server import multi_model_server; sys.exit(multi_model_server())"
    done = subprocess.run(
        [sys.executable, "-c", code, "--start", "--any"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "the original --start --any\n"), done.stderr
    assert "pip uninstall multi-model-server" in done.stderr
