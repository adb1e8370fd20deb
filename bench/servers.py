"""The servers that are measured: how each is started, found ready, asked and stopped.

A rival is one more Server. Every start is a fresh process on a free port of the loopback, in a session of its own.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import procfs
from bench.errors import BenchError
from bench.scenarios import ECHO, Scenario, check_constant
from bench.toolchain import BUILD, compiled

HOST = "127.0.0.1"
HERE = Path(__file__).parent
READY_S = 60.0
POLL_S = 0.002
STOP_S = 10.0
CHECKS = 20  # requests on one connection
#: One thread for each numeric library, so that the cores belong to the servers' own processes.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Server:
    """command: from two free ports, of which the first takes the requests, to the words that start it.

    is_yardstick: answers scenarios.ECHO to everything. target: of a scenario by name.
    """

    name: str
    command: Callable[[int, int], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    is_yardstick: bool = False
    target: Callable[[str], str] = "/models/{}/invoke".format
    ping: str = "/ping"

    @contextmanager
    def running(self) -> Iterator["Running"]:
        """Start it, and end it and all its processes afterwards. BenchError when it does not come up or not stay up."""
        port, other = _free_ports(2)
        BUILD.mkdir(parents=True, exist_ok=True)
        log = BUILD / f"{self.name}.log"
        command = self.command(port, other)
        environment = {**os.environ, **ENVIRONMENT, **self.environment}
        began = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        try:
            self._wait(process, port, log)
            yield Running(self, process.pid, port, (time.monotonic() - began) * 1e3)
            if process.poll() is not None:
                raise BenchError(f"{self.name} ended by itself with status {process.returncode}\n{_tail(log)}")
        finally:
            _stop(process)

    def _wait(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        deadline = time.monotonic() + READY_S
        while not _answers(port, self.ping):
            if process.poll() is not None:
                raise BenchError(f"{self.name} ended with status {process.returncode}:\n{_tail(log)}")
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name} gave no 200 on {self.ping} within {READY_S:g} s:\n{_tail(log)}")
            time.sleep(POLL_S)


@dataclass(frozen=True)
class Running:
    """A server that has answered its ping. start_ms: from its exec to that."""

    server: Server
    pid: int
    port: int
    start_ms: float

    def url(self, scenario: Scenario) -> str:
        return f"http://{HOST}:{self.port}{self.server.target(scenario.name)}"

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(HOST, self.port, timeout=30)

    def ask(self, connection: http.client.HTTPConnection, scenario: Scenario) -> None:
        """One request. BenchError when the answer is not right or the connection is not kept."""
        target, headers = self.server.target(scenario.name), {"Content-Type": scenario.content_type}
        try:
            connection.request("POST", target, scenario.body, headers)
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise ValueError(f"status {response.status}: {body[:200]!r}")
            if response.will_close:
                raise ValueError("the connection is not kept")
            (check_constant if self.server.is_yardstick else scenario.check)(body)
        except (ValueError, LookupError, TypeError, OSError, http.client.HTTPException) as error:
            raise BenchError(f"{self.server.name}, {scenario.name}: {error!r}") from None

    def check(self, scenario: Scenario) -> None:
        connection = self.connect()
        try:
            for _ in range(CHECKS):
                self.ask(connection, scenario)
        finally:
            connection.close()


def headrace(name: str = "headrace", python: str = sys.executable) -> Server:
    """*python*: the interpreter of the environment that it is installed in. HEADRACE_* of ours are passed on."""
    models = [f"{path.name}={path}" for path in sorted((HERE / "models").iterdir()) if (path / "model.py").exists()]
    words = [python, "-m", "headrace", "serve", *models, "--workers", "1", "--frontends", "1"]
    return Server(name, lambda port, management: [*words, "--port", str(port), "--management-port", str(management)])


def bare() -> Server:
    script = str(HERE / "yardsticks" / "bare.py")
    return Server("bare", lambda port, _: [sys.executable, script, str(port), ECHO.decode()], is_yardstick=True)


def floor() -> Server:
    def command(port: int, _: int) -> list[str]:
        return [str(compiled(HERE / "yardsticks" / "floor.c")), str(port), ECHO.decode()]

    return Server("floor", command, is_yardstick=True)


SERVERS: dict[str, Callable[[], Server]] = {"headrace": headrace, "bare": bare, "floor": floor}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind((HOST, 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _answers(port: int, target: str) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", target)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask it to end, for STOP_S. Then it is killed, and so is what it has left behind."""
    pids = list(procfs.tree(process.pid))
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        pids = list(procfs.tree(process.pid))
        process.kill()
        process.wait()
    for pid in pids:
        try:
            if os.getsid(pid) == process.pid:  # else the number is somebody else's by now
                os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]
