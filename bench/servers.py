"""The servers that are measured: how each is started, found ready, asked and stopped.

A rival is one more Server. Every start is a fresh process on a free port of the loopback, in a session of its own.
"""

import http.client
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import procfs
from bench.errors import BenchError
from bench.scenarios import ECHO, Scenario, check_constant
from bench.toolchain import BUILD, certificate_and_key, compiled
from bench.work import kind_of

HOST = "127.0.0.1"
HERE = Path(__file__).parent
ROOT = HERE.parent
READY_S = 180.0  # fifty processes of a rival take a minute or two
POLL_S = 0.002
RIGHT_POLL_S = 0.05  # between requests to a model that may not be there yet
STOP_S = 10.0
PORTS = range(20_000, 32_000)
CHECKS = 20  # requests on one connection; fewer of large ones
LARGE_BYTES, LARGE_CHECKS = 1 << 20, 3
#: One thread for each numeric library, so that the cores belong to the servers' own processes; and the root, so that
#: every server's models find bench.work.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@dataclass(frozen=True)
class Setup:
    """What a server is started for. models: of bench.work. is_encrypted: it speaks https, by our certificate."""

    models: tuple[str, ...]
    is_encrypted: bool = False


@dataclass(frozen=True)
class Ask:
    """A POST request. target: from the path on."""

    target: str
    headers: Mapping[str, str]
    body: bytes


PLAIN = Setup(("echo", "mlp", "tensor"))


def _plain(scenario: Scenario) -> Ask:
    return Ask(f"/models/{scenario.model}/invoke", {"Content-Type": scenario.content_type}, scenario.body)


@dataclass(frozen=True)
class Server:
    """command: from two free ports, of which the first takes the requests, to the words that start it; it may write
    the files that those name.

    is_yardstick: answers scenarios.ECHO to everything. ask: how this server is told a scenario's request. read: from
    its answer to the scenario's, for a server that wraps them. ping: what answers 200 once it is up. scheme: https for
    a server with a certificate, which is not looked at. load: how it is told to load one more model while it runs,
    which it is then ready to serve; None where it has no such request. is_managed_apart: on the second port. first:
    models that are loaded so as soon as it is up.
    """

    name: str
    command: Callable[[int, int], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    is_yardstick: bool = False
    ask: Callable[[Scenario], Ask] = _plain
    read: Callable[[Scenario, bytes], bytes] = lambda _, body: body
    ping: str = "/ping"
    scheme: str = "http"
    load: Callable[[str], Ask] | None = None
    is_managed_apart: bool = False
    first: tuple[str, ...] = ()

    @contextmanager
    def running(self, may_die: bool = False) -> Iterator["Running"]:
        """Start it, and end it and all its processes afterwards. BenchError when it does not come up or not stay up,
        unless it may die."""
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
            running = Running(self, process.pid, port, other if self.is_managed_apart else port)
            for model in self.first:
                running.load(model)
            yield replace(running, start_ms=(time.monotonic() - began) * 1e3)
            if process.poll() is not None and not may_die:
                raise BenchError(f"{self.name} ended by itself with status {process.returncode}\n{_tail(log)}")
        finally:
            _stop(process)

    def _wait(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        deadline = time.monotonic() + READY_S
        while not _answers(_connection(self.scheme, port), self.ping):
            if process.poll() is not None:
                raise BenchError(f"{self.name} ended with status {process.returncode}:\n{_tail(log)}")
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name} gave no 200 on {self.ping} within {READY_S:g} s:\n{_tail(log)}")
            time.sleep(POLL_S)


@dataclass(frozen=True)
class Running:
    """A server that has answered its ping. management: the port that loads models. start_ms: from its exec to that."""

    server: Server
    pid: int
    port: int
    management: int
    start_ms: float = 0.0

    def url(self, scenario: Scenario) -> str:
        return f"{self.server.scheme}://{HOST}:{self.port}{self.server.ask(scenario).target}"

    def connect(self) -> http.client.HTTPConnection:
        return _connection(self.server.scheme, self.port)

    def ask(self, connection: http.client.HTTPConnection, scenario: Scenario) -> None:
        """One request. BenchError when the answer is not right or the connection is not kept."""
        ask = self.server.ask(scenario)
        try:
            connection.request("POST", ask.target, ask.body, dict(ask.headers))
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise ValueError(f"status {response.status}: {body[:200]!r}")
            if response.will_close:
                raise ValueError("the connection is not kept")
            if self.server.is_yardstick:
                check_constant(body)
            else:
                scenario.check(self.server.read(scenario, body))
        except (ValueError, LookupError, TypeError, OSError, http.client.HTTPException) as error:
            raise BenchError(f"{self.server.name}, {scenario.name}: {error!r}") from None

    def load(self, model: str) -> None:
        """One more model. BenchError when that is not answered with 200."""
        assert self.server.load is not None, "only of servers that can"
        ask = self.server.load(model)
        connection = _connection(self.server.scheme, self.management)
        try:
            connection.request("POST", ask.target, ask.body, dict(ask.headers))
            response = connection.getresponse()
            if response.status != 200:
                text = response.read()[:300]
                raise BenchError(f"{self.server.name} did not load {model}: status {response.status}: {text!r}")
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(f"{self.server.name} did not load {model}: {error!r}") from None
        finally:
            connection.close()

    def await_right(self, scenario: Scenario, poll_s: float = RIGHT_POLL_S) -> None:
        """Until one answer is right: some servers say that they are well before their models are there.
        BenchError after READY_S, with what the last one was."""
        deadline = time.monotonic() + READY_S
        while True:
            connection = self.connect()
            try:
                return self.ask(connection, scenario)
            except BenchError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(poll_s)
            finally:
                connection.close()

    def check(self, scenario: Scenario) -> None:
        connection = self.connect()
        try:
            for _ in range(CHECKS if len(scenario.body) < LARGE_BYTES else LARGE_CHECKS):
                self.ask(connection, scenario)
        finally:
            connection.close()


def headrace(name: str = "headrace", python: str = sys.executable, setup: Setup = PLAIN) -> Server:
    """*python*: the interpreter of the environment that it is installed in. HEADRACE_* of ours are passed on."""
    pairs = [f"{model}={HERE / 'models' / kind_of(model)}" for model in setup.models]
    words = [python, "-m", "headrace", "serve", *pairs, "--workers", "1", "--frontends", "1"]
    words += ["--model-store", str(HERE / "models")]
    environment = {}
    if setup.is_encrypted:
        certificate, key = certificate_and_key()
        environment = {
            "HEADRACE_TLS": "both",
            "HEADRACE_TLS_CERTIFICATE": str(certificate),
            "HEADRACE_TLS_KEY": str(key),
        }

    def load(model: str) -> Ask:
        body = json.dumps({"model_name": model, "url": kind_of(model)}).encode()
        return Ask("/models", {"Content-Type": "application/json"}, body)

    return Server(
        name,
        lambda port, management: [*words, "--port", str(port), "--management-port", str(management)],
        environment,
        scheme="https" if setup.is_encrypted else "http",
        load=load,
        is_managed_apart=True,
    )


def bare() -> Server:
    script = str(HERE / "yardsticks" / "bare.py")
    return Server("bare", lambda port, _: [sys.executable, script, str(port), ECHO.decode()], is_yardstick=True)


def floor() -> Server:
    def command(port: int, _: int) -> list[str]:
        return [str(compiled(HERE / "yardsticks" / "floor.c")), str(port), ECHO.decode()]

    return Server("floor", command, is_yardstick=True)


SERVERS: dict[str, Callable[[], Server]] = {"headrace": headrace, "bare": bare, "floor": floor}


def _free_ports(count: int) -> list[int]:
    """Below those that the kernel gives to clients, and below 32768: Multi Model Server takes no others."""
    sockets: list[socket.socket] = []
    with ExitStack() as opened:
        for port in random.sample(PORTS, len(PORTS)):
            each = opened.enter_context(socket.socket())
            try:
                each.bind((HOST, port))
            except OSError:
                continue
            sockets.append(each)
            if len(sockets) == count:
                return [each.getsockname()[1] for each in sockets]
    raise BenchError(f"no {count} free ports from {PORTS.start} to {PORTS.stop}")


def _connection(scheme: str, port: int) -> http.client.HTTPConnection:
    if scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(HOST, port, timeout=30, context=context)
    return http.client.HTTPConnection(HOST, port, timeout=30)


def _answers(connection: http.client.HTTPConnection, target: str) -> bool:
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
