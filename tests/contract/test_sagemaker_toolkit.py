"""The SageMaker Inference Toolkit from PyPI, unmodified: its entry point starts Headrace, which serves its handler.

What is set from outside is what a container sets: directories, ports, and the place of the file that it writes to /etc.
"""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request

import psutil
import pytest

from tests.contract.test_commands import free_port
from tests.e2e.conftest import WATCHDOG_S, wait_until

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sagemaker_inference") is None, reason="sagemaker-inference is not installed: .[test]"
)
# The toolkit looks once a second for a process of any container, of which there may be but one on the machine.
START_S = 6 * WATCHDOG_S

ENTRY = """
import os
from sagemaker_inference import model_server
model_server.MMS_CONFIG_FILE = os.environ["CONFIG_FILE"]
model_server.start_model_server(handler_service="sagemaker_inference.default_handler_service")
"""
INFERENCE = """
import os, helper
def model_fn(model_dir):
    with open(os.path.join(model_dir, "factor")) as file:
        return float(file.read())
def predict_fn(data, model, context):
    if context.get_request_header(0, "X-Fail"):
        raise helper.Failure("on purpose: \\u20ac\\nsecond line")
    return data * model
"""
HELPER = "class Failure(Exception):\n    pass\n"


class Container:
    """The toolkit's entry point as a container runs it."""

    def __init__(self, directory, **environment):
        self.port = free_port()
        (directory / "entry.py").write_text(ENTRY)
        self.out = directory / "out"
        env = {key: value for key, value in os.environ.items() if not key.startswith(("HEADRACE_", "SAGEMAKER_"))}
        env |= {
            "PATH": f"{sysconfig.get_path('scripts')}:{env['PATH']}",
            "TMPDIR": str(directory),
            "CONFIG_FILE": str(directory / "mms.properties"),
            "SAGEMAKER_BASE_DIR": str(directory),
            "SAGEMAKER_BIND_TO_PORT": str(self.port),
            **environment,
        }
        with open(self.out, "wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(directory / "entry.py")], cwd=directory, env=env, stdout=out, stderr=out
            )

    def ready(self):
        wait_until(lambda: self.request("GET", "/ping")[0] == 200 or self.process.poll() is not None, "no ping")
        assert self.process.poll() is None, self.out.read_text()
        return self

    def request(self, method, path, body=None, **headers):
        url = f"http://127.0.0.1:{self.port}{path}"
        fields = {key.replace("_", "-"): value for key, value in headers.items()}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, body, fields, method=method), timeout=WATCHDOG_S
            ) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except (urllib.error.URLError, ConnectionError):
            return 0, b""

    def stop(self):
        """SIGTERM to the entry point, once it has found its server; returns its exit status."""
        family = [self.process, *psutil.Process(self.process.pid).children(recursive=True)]
        servers = [child for child in psutil.process_iter() if self._is_ours(child)]
        wait_until(lambda: _catches_sigterm(self.process.pid), "the toolkit never found the server")
        self.process.terminate()
        status = self.process.wait(START_S)
        _, alive = psutil.wait_procs([*family[1:], *servers], WATCHDOG_S)
        assert alive == [], self.out.read_text()
        return status

    def _is_ours(self, process):
        try:
            return process.environ().get("CONFIG_FILE") == str(self.out.parent / "mms.properties")
        except psutil.Error:
            return False


def _catches_sigterm(pid):
    """Whether the process has a handler for SIGTERM by now (proc(5), SigCgt)."""
    with open(f"/proc/{pid}/status") as file:
        caught = next(int(line.split()[1], 16) for line in file if line.startswith("SigCgt:"))
    return caught >> 14 & 1


@pytest.fixture
def container(tmp_path):
    started = []

    def start(**environment):
        started.append(Container(tmp_path, **environment))
        return started[-1].ready()

    yield start
    for one in started:
        if one.process.poll() is None:
            status = one.stop()
            assert status == 0, one.out.read_text()


def write_model(directory, factor, code="code"):
    (directory / code).mkdir(parents=True)
    (directory / code / "inference.py").write_text(INFERENCE)
    (directory / code / "helper.py").write_text(HELPER)
    (directory / "factor").write_text(str(factor))
    return directory


def test_single_model(container, tmp_path):
    write_model(tmp_path / "model", 2)
    one = container(SAGEMAKER_MODEL_SERVER_WORKERS="1", SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT="text/csv")
    send = {"content_type": "application/json"}
    assert one.request("POST", "/invocations", b"[1, 2]", accept="application/json", **send) == (200, b"[2.0, 4.0]")
    assert one.request("POST", "/invocations", b"[1, 2]", **send) == (200, b"2.0\n4.0\n")
    status, body = one.request("POST", "/invocations", b"[1]", X_Fail="1", **send)
    assert status == 500
    assert body.decode().startswith("on purpose: €\nsecond line\nTraceback")
    assert one.request("POST", "/invocations", b"[3]", accept="application/json", **send) == (200, b"[6.0]")


def test_multi_model(container, tmp_path):
    one = container(SAGEMAKER_MULTI_MODEL="true", SAGEMAKER_MODEL_SERVER_WORKERS="1")
    send = {"content_type": "application/json"}
    # The toolkit by itself finds a script at the top of a model only; each has modules of the same names.
    for name, factor, code in [("a", 2, "."), ("b", 5, "."), ("c", 7, "code")]:
        document = {"model_name": name, "url": str(write_model(tmp_path / name, factor, code))}
        assert one.request("POST", "/models", json.dumps(document).encode(), **send)[0] == 200
    for _ in range(2):
        for name, answer in [("a", b"[2.0]"), ("b", b"[5.0]"), ("c", b"[7.0]")]:
            assert one.request("POST", f"/models/{name}/invoke", b"[1]", **send) == (200, answer)
    assert one.request("DELETE", "/models/a")[0] == 200
    assert one.request("POST", "/models/a/invoke", b"[1]", **send)[0] == 404
    assert one.request("POST", "/models/b/invoke", b"[1]", **send) == (200, b"[5.0]")


def test_archive_made_by_the_real_archiver(container, tmp_path):
    source = write_model(tmp_path / "source", 4, ".")
    (source / "service.py").write_text(
        "from sagemaker_inference.default_handler_service import DefaultHandlerService\n"
        "class Service(DefaultHandlerService):\n    pass\n"
    )
    subprocess.run(
        [
            *(f"{sysconfig.get_path('scripts')}/model-archiver", "--model-name", "made", "--handler", "service"),
            *("--model-path", str(source), "--export-path", str(tmp_path)),
        ],
        check=True,
        timeout=WATCHDOG_S,
    )
    one = container(SAGEMAKER_MULTI_MODEL="true", SAGEMAKER_MODEL_SERVER_WORKERS="1")
    document = {"url": str(tmp_path / "made.mar")}
    status, body = one.request("POST", "/models", json.dumps(document).encode(), content_type="application/json")
    assert status == 200, body
    assert one.request("POST", "/models/made/invoke", b"[1]", content_type="application/json") == (200, b"[4.0]")
