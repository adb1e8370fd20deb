"""A serving toolkit's entry point, as a container runs it. What is set from outside is what a container sets.

entry: Python source that starts the toolkit, whose configuration file goes to CONFIG_FILE rather than to /etc. It is
process 1 of a namespace: toolkits take whichever process of the machine bears the mark of a server for theirs.
"""

import contextlib
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

NAMESPACE = ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child"]


class Container:
    """Ready when it is made; stop() ends it."""

    def __init__(self, directory, entry, **environment):
        if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
            pytest.skip("no leave to make a namespace of processes (unshare --pid)")
        self.port = free_port()
        (directory / "entry.py").write_text(entry)
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
                [*NAMESPACE, sys.executable, str(directory / "entry.py")],
                cwd=directory,
                env=env,
                stdout=out,
                stderr=out,
            )
        try:
            wait_until(lambda: self.request("GET", "/ping")[0] == 200 or self.process.poll() is not None, "no ping")
            assert self.process.poll() is None, self.out.read_text()
        except BaseException:
            self.process.kill()
            print(self.out.read_text())
            raise

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
        """SIGTERM to the entry point, once it has found its server; its exit status. All else must have ended."""
        (entry,) = psutil.Process(self.process.pid).children()
        wait_until(lambda: _catches_sigterm(entry.pid), "the toolkit never found the server")
        family = entry.children(recursive=True)
        entry.terminate()
        status = self.process.wait(WATCHDOG_S)
        _, alive = psutil.wait_procs(family, WATCHDOG_S)
        assert alive == [], self.out.read_text()
        assert " stopped" in self.out.read_text(), "the server was not asked to end, or did not do so by itself"
        return status


@contextlib.contextmanager
def containers(directory, entry, **common):
    """start(**environment) makes a Container, with *common* in its environment too. At the end each that still runs is
    asked to end, and must do so with status 0."""
    started = []

    def start(**environment):
        started.append(Container(directory, entry, **common, **environment))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            status = one.stop()
            assert status == 0, one.out.read_text()


def _catches_sigterm(pid):
    """Whether the process has a handler for SIGTERM by now (proc(5), SigCgt)."""
    with open(f"/proc/{pid}/status") as file:
        caught = next(int(line.split()[1], 16) for line in file if line.startswith("SigCgt:"))
    return caught >> 14 & 1
