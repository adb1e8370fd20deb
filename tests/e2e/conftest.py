"""A real server for tests that ask for one: `headrace serve` on free ports, stopped and checked for what it leaves."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

ECHO = """
from headrace import Model
class Echo(Model):
    def handle(self, requests):
        return [bytes(request.body) for request in requests]
"""
# Answers only when the file `go` lies beside it; `begun` says that it runs.
GATED = """
import os, pathlib, time
from headrace import Model
class Gated(Model):
    def load(self, directory):
        self.directory = directory
    def handle(self, requests):
        (self.directory / "begun").touch()
        while not (self.directory / "go").exists():
            time.sleep(0.005)
        return [{"pid": os.getpid()} for _ in requests]
"""

WATCHDOG_S = 60.0  # a broken server fails a test; nothing waits for luck


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`, polled; fails the test when the watchdog barks."""
    end = time.monotonic() + WATCHDOG_S
    while not (value := condition()):
        assert time.monotonic() < end, f"watchdog: {what}"
        time.sleep(0.005)
    return value


def in_background(work: Callable[[], Any]) -> Callable[[], Any]:
    """Starts *work* in a thread; call what is returned for its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()

    def result() -> Any:
        thread.join(WATCHDOG_S)
        return results[0]

    return result


class Answer:
    """One answer, read to its end."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes, reason: str = "") -> None:
        self.status, self.headers, self.body, self.reason = status, headers, body, reason

    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """`headrace serve ARGUMENTS` in a process group of its own."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("HEADRACE_", "SAGEMAKER_"))}
        env |= {"HEADRACE_PORT": "0", "HEADRACE_MANAGEMENT_PORT": "0", "PYTHONFAULTHANDLER": "1", **environment}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "headrace", "serve", *arguments],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.lines: list[str] = []  # of the log, on standard error
        self.output: list[str] = []  # of standard output
        self.sockets: list[socket.socket] = []
        self.reads = threading.Event()  # its log is read
        self.reads.set()
        self.reader = self._follow(self.process.stderr, self.lines)
        self.output_reader = self._follow(self.process.stdout, self.output)
        self.port = self.management_port = 0

    def _follow(self, stream: IO[bytes], lines: list[str]) -> threading.Thread:
        def read() -> None:
            with stream:
                for line in stream:
                    self.reads.wait()
                    lines.append(line.decode("utf-8", "replace").rstrip("\n"))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        return reader

    def pause(self) -> None:
        """Read nothing of what it writes until go_on()."""
        self.reads.clear()

    def go_on(self) -> None:
        self.reads.set()

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def ready(self) -> "Server":
        """Waits until the server says that it is, in either form of log."""
        wait_until(lambda: self.find(r'[ "]ready[ "]') or self.process.poll() is not None, f"not ready:\n{self.log}")
        assert self.process.poll() is None, self.log
        self.port = int(self.find(r'[ "]inference"?[=:]"?http://\S*?:(\d+)').group(1))
        management = self.find(r'[ "]management"?[=:]"?http://\S*?:(\d+)')
        self.management_port = int(management.group(1)) if management else self.port
        return self

    def wait_for_line(self, word: str, since: int) -> None:
        """Waits for a line of the log with *word*, *since* so many lines."""
        wait_until(lambda: any(word in line for line in self.lines[since:]), f"no {word} in:\n{self.log}")

    def find(self, pattern: str) -> Any:
        return re.search(pattern, self.log)

    def request(
        self, method: str, path: str, body: bytes | None = None, management: bool = False, **headers: str
    ) -> Answer:
        """One request on a connection of its own."""
        port = self.management_port if management else self.port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WATCHDOG_S)
        try:
            connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
            response = connection.getresponse()
            fields = {key.lower(): value for key, value in response.getheaders()}
            return Answer(response.status, fields, response.read(), response.reason)
        finally:
            connection.close()

    def post(self, path: str, body: bytes, **headers: str) -> Answer:
        return self.request("POST", path, body, **({"content_type": "application/json"} | headers))

    def manage(self, method: str, path: str, document: Any = None) -> Answer:
        body = None if document is None else json.dumps(document).encode()
        headers = {} if document is None else {"content_type": "application/json"}
        return self.request(method, path, body, management=True, **headers)

    def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=WATCHDOG_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sockets.append(sock)
        return sock

    def metric(self, name: str) -> float:
        """A metric of /metrics, all its labels together."""
        text = self.request("GET", "/metrics", management=True).body.decode()
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        assert found, f"no metric {name} in:\n{text}"
        return sum(map(float, found))

    def family(self) -> list[psutil.Process]:
        """The supervisor and all its descendants."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def named(self, word: str) -> list[psutil.Process]:
        """Processes of the family with `word` in their title, such as "worker"."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                if word in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def held(self) -> tuple[int, int]:
        """Descriptors and processes of the family, once it holds no slot and no connection but the one that asks."""
        wait_until(self._is_settled, "slots or connections stay behind")
        return self._count()

    def check_holds_no_more_than(self, before: tuple[int, int]) -> None:
        """before: of `held`. It may count the descriptor of the connection that asked for metrics; less is no loss."""
        self.held()
        wait_until(
            lambda: all(now <= then for now, then in zip(self._count(), before, strict=True)),
            f"descriptors and processes were {before}, are {self._count()}",
        )

    def _is_settled(self) -> bool:
        slots = ("headrace_slots_leased", "headrace_arena_incomplete_bytes")
        return self.metric("headrace_connections") <= 1 and not any(map(self.metric, slots))

    def _count(self) -> tuple[int, int]:
        family = self.family()
        return sum(process.num_fds() for process in family), len(family)

    def stop(self) -> int:
        """SIGTERM, then the exit status; fails when any process stays behind."""
        self.reads.set()
        for sock in self.sockets:
            sock.close()
        family = self.family() if self.process.poll() is None else []
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(WATCHDOG_S)
        wait_until(lambda: not any(map(is_alive, family)), f"left behind: {list(filter(is_alive, family))}\n{self.log}")
        self.reader.join(WATCHDOG_S)
        self.output_reader.join(WATCHDOG_S)
        return status

    def kill(self) -> None:
        self.reads.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(WATCHDOG_S)


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs: a zombie does not, and may wait for its new parent for long."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Serve:
    """serve("NAME=PATH", ..., HEADRACE_X="...") -> a Server that is ready; begin(...) -> one that may not be yet."""

    def __init__(self) -> None:
        self.servers: list[Server] = []

    def begin(self, *arguments: str, **environment: str) -> Server:
        self.servers.append(Server(*arguments, **environment))
        return self.servers[-1]

    def __call__(self, *arguments: str, **environment: str) -> Server:
        return self.begin(*arguments, **environment).ready()


@contextlib.contextmanager
def serving() -> Iterator[Serve]:
    """Gives a Serve, whose servers must all stop cleanly at the end."""
    start = Serve()
    servers = start.servers
    try:
        yield start
        statuses = [server.stop() for server in servers]
    except BaseException:
        for server in servers:
            server.kill()
            print(server.log)
        raise
    broken = [line for server in servers for line in server.lines if ".broke" in line or line.startswith("Traceback")]
    assert statuses == [0] * len(servers), "\n".join(server.log for server in servers)
    assert not broken, "\n".join(broken)


@pytest.fixture
def serve() -> Iterator[Serve]:
    with serving() as start:
        yield start


@pytest.fixture(scope="module")
def serve_module() -> Iterator[Serve]:
    """As `serve`, for servers that the tests of a module share."""
    with serving() as start:
        yield start


def write_model(directory: Path, source: str, **files: str) -> str:
    """Writes a native model's model.py, and gives `NAME=PATH` as the command line takes it."""
    directory.mkdir(parents=True)
    (directory / "model.py").write_text(source)
    for name, text in files.items():
        (directory / name).write_text(text)
    return f"{directory.name}={directory}"


@pytest.fixture
def model_dir(tmp_path: Path) -> Callable[[str, str], str]:
    """model_dir(NAME, SOURCE) -> `NAME=PATH` of a new native model."""
    return lambda name, source: write_model(tmp_path / name, source)
