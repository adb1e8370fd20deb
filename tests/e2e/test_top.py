"""`headrace top` before a real server: in a terminal (pyte draws it), on a pipe, and as JSON."""

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import threading

import pyte
import pytest
from conftest import ECHO, WATCHDOG_S, wait_until, write_model

FAILING = """
from headrace import Model
class Failing(Model):
    def handle(self, requests):
        raise ValueError("no")
"""
LINES, COLUMNS = 30, 160


@pytest.fixture(scope="module")
def server(serve_module, tmp_path_factory):
    store = tmp_path_factory.mktemp("top")
    write_model(store / "echo", ECHO)
    write_model(store / "failing", FAILING)
    for number in range(30):
        write_model(store / f"idle-{number:02d}", ECHO)
    return serve_module("--model-store", str(store), "--models", "ALL", HEADRACE_WORKERS="1")


@pytest.fixture(scope="module")
def traffic(server):
    """Requests all the time, for rates need some."""
    over = threading.Event()

    def send():
        while not over.wait(0.002):
            server.request("POST", "/models/echo/invoke", b"x" * 100)
            server.request("POST", "/models/failing/invoke", b"x")

    thread = threading.Thread(target=send)
    thread.start()
    yield
    over.set()
    thread.join(WATCHDOG_S)


def arguments(server, *words):
    return [sys.executable, "-m", "headrace", "top", "--url", f"http://127.0.0.1:{server.management_port}", *words]


class Terminal:
    """`headrace top` in a pseudo-terminal; what it shows is lines of text."""

    def __init__(self, words):
        self.screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self.screen)
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self.settings = termios.tcgetattr(theirs)
        self._theirs = theirs
        env = {**os.environ, "TERM": "xterm-256color"}
        self.process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=env, close_fds=True)

    def text(self):
        while select.select([self._ours], [], [], 0)[0]:
            self._stream.feed(os.read(self._ours, 65536))
        return "\n".join(self.screen.display)

    def shows(self, condition, what):
        wait_until(lambda: condition(self.text()), f"{what}: {self.text()}")
        return self.text()

    def press(self, key):
        os.write(self._ours, key.encode())

    def settings_now(self):
        return termios.tcgetattr(self._theirs)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WATCHDOG_S)
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture
def open_terminal():
    opened = []

    def start(words):
        opened.append(Terminal(words))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


def place(text, name):
    """The number of the line that shows the model."""
    return next((at for at, line in enumerate(text.splitlines()) if line.startswith(name)), None)


def test_the_page_shows_rates_sorts_moves_and_quits(server, traffic, open_terminal):
    terminal = open_terminal(arguments(server, "--interval", "200ms"))
    text = terminal.shows(lambda text: "failing" in text and "5xx/s" in text and " ms" in text, "rates")
    assert "memory [" in text
    assert "of 32 models" in text
    assert "REQUESTS/S v" in text
    terminal.press("n")
    text = terminal.shows(lambda text: "MODEL v" in text and place(text, "echo") is not None, "names in order")
    assert place(text, "echo") < place(text, "failing") < place(text, "idle-00")
    assert place(text, "idle-29") is None
    for _ in range(7):
        terminal.press("j")
    terminal.shows(lambda text: place(text, "idle-29") is not None and place(text, "echo") is None, "the last models")
    terminal.press(" ")
    terminal.shows(lambda text: "paused" in text, "a pause")
    terminal.press("q")
    wait_until(lambda: terminal.text() is not None and terminal.process.poll() is not None, "its end")
    assert terminal.process.returncode == 0
    assert terminal.settings_now() == terminal.settings


def test_a_server_that_is_gone_is_told_of_and_waited_for(serve, open_terminal):
    server = serve(HEADRACE_WORKERS="1")
    terminal = open_terminal(arguments(server, "--interval", "200ms"))
    terminal.shows(lambda text: "digits" in text, "a model")
    server.stop()
    text = terminal.shows(lambda text: "no server answers" in text, "what is wrong")
    assert "digits" in text
    assert terminal.process.poll() is None


def test_frames_as_json(server, traffic):
    done = subprocess.run(
        arguments(server, "--interval", "200ms", "--count", "2", "--json"),
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        check=True,
    )
    first, second = map(json.loads, done.stdout.splitlines())
    for frame in (first, second):
        models = {model["name"]: model for model in frame["models"]}
        assert models["echo"]["requests"] > 0
        assert models["echo"]["errors"] == 0
        assert 0 < models["echo"]["p50"] <= models["echo"]["p99"]
        assert models["failing"]["errors"] == models["failing"]["requests"] > 0
        assert models["idle-00"]["p99"] is None
        assert frame["totals"]["answers_5xx"] > 0
        (worker,) = frame["workers"]
        assert 0 < worker["busy"] <= 1
    assert second["time"] > first["time"]


def test_frames_on_a_pipe_are_text_without_control_characters(server, traffic):
    done = subprocess.run(
        arguments(server, "--interval", "200ms", "--count", "1", "--sort", "memory"),
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        check=True,
    )
    assert "MEMORY v" in done.stdout
    assert "idle-29" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("words", [("--interval", "1ms"), ("--count", "0"), ("--sort", "colour")])
def test_a_mistake_is_said(server, words):
    done = subprocess.run(arguments(server, *words), capture_output=True, text=True, timeout=WATCHDOG_S, check=False)
    assert done.returncode == 2
    assert words[0] in done.stderr


def test_without_a_server_there_is_a_sentence_and_a_status():
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "top", "--url", "http://127.0.0.1:1"],
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        check=False,
    )
    assert done.returncode == 3
    assert "no server answers at http://127.0.0.1:1" in done.stderr
