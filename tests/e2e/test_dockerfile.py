"""The Dockerfile's steps, executed in fresh virtual environments: the image's build, its install, its start, its check.

    stage 1   COPY . /src (what .dockerignore lets through), pip wheel    in a virtual environment, with the compiler
    stage 2   pip install, ENV, ENTRYPOINT CMD, HEALTHCHECK               in another, without it

What a virtual environment has no part in is left out, and named: SYSTEM. Absolute paths move into the test's folder.
The wheel that comes out is what a user installs, so what has to be true of it is tested here as well.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import wait_until
from dockerfile import parse

ROOT = Path(__file__).parents[2]
BUILD, IMAGE = parse(ROOT / "Dockerfile")
SYSTEM = {"apt-get", "useradd", "rm -rf /var/lib/apt/lists/*"}
TOOLS = ("sh", "rm")  # of an image without a compiler, as far as RUN uses them
SETTINGS = ("HEADRACE_", "SAGEMAKER_", "PYTHON")


class Machine:
    """A stand-in for one stage's file system: a virtual environment, and absolute paths below a folder."""

    def __init__(self, folder: Path, root: Path, tools: str) -> None:
        self.root, self.venv = root, folder / "venv"
        subprocess.run([sys.executable, "-m", "venv", self.venv], check=True, timeout=120)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
        self.environment = {**kept, "PATH": f"{self.venv}/bin:{tools}", "VIRTUAL_ENV": str(self.venv)}
        self.done: list[str] = []

    def execute(self, words: list[str]) -> None:
        line = " ".join(words)
        if words[0] in SYSTEM or line in SYSTEM:
            return
        self.done.append(words[0])
        moved = [str(self.root / word[1:]) if word.startswith("/") else word for word in words]
        self.run(moved)

    def run(self, words: list[str], cwd: Path | None = None) -> str:
        options = {"capture_output": True, "text": True, "timeout": 300}
        done = subprocess.run(words, env=self.environment, cwd=cwd or self.root, **options)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """What both stages see as `/`; /src holds what `COPY .` copies."""
    root = tmp_path_factory.mktemp("image")
    allowed, refused = [], []
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            allowed.append(line[1:])
        elif line.startswith("**/"):
            refused.append(line[3:])
    assert ("COPY", ". /src") in BUILD.steps
    (root / "src").mkdir()
    for name in allowed:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / "src" / name, ignore=shutil.ignore_patterns(*refused))
        else:
            shutil.copy(ROOT / name, root / "src" / name)
    return root


@pytest.fixture(scope="module")
def wheels(root, tmp_path_factory):
    """The folder of wheels, ours and those of what it needs."""
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler")
    machine = Machine(tmp_path_factory.mktemp("build"), root, os.environ["PATH"])
    for words in BUILD.commands():
        machine.execute(words)
    assert machine.done == ["pip"]
    return root / "wheels"


@pytest.fixture(scope="module")
def wheel(wheels):
    (wheel,) = wheels.glob("headrace-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist(), archive.read(next(n for n in archive.namelist() if n.endswith("/METADATA"))).decode()


@pytest.fixture(scope="module")
def image(wheel, root, tmp_path_factory):
    """The second stage, installed. Its PATH has no compiler."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "tools").mkdir()
    for tool in TOOLS:
        (folder / "tools" / tool).symlink_to(shutil.which(tool))
    machine = Machine(folder, root, str(folder / "tools"))
    assert shutil.which("cc", path=machine.environment["PATH"]) is None
    assert ("COPY", "--from=build /wheels /wheels") in IMAGE.steps
    for words in IMAGE.commands():
        machine.execute(words)
    assert machine.done == ["pip", "rm"]
    machine.environment |= IMAGE.pairs("ENV")
    return machine


def test_the_wheel_holds_the_package_and_nothing_of_the_workshop(wheel):
    names, metadata = wheel
    assert {name.split("/")[0] for name in names} == {
        "headrace",
        "headrace-stand-in.pth",
        next(n for n in names if "dist-info" in n).split("/")[0],
    }
    held = set(names)
    sources = {path.stem for path in (ROOT / "ext").glob("*.pyx")}
    built = {match[1] for name in names if (match := re.fullmatch(r"headrace/_(\w+)\.cpython-.*\.so", name))}
    assert built == sources
    files = {
        path for path in (ROOT / "engine/headrace").rglob("*") if path.is_file() and path.suffix not in (".so", ".pyc")
    }
    assert {f"headrace/{path.relative_to(ROOT / 'engine/headrace')}" for path in files} <= held
    assert "License-Expression: Apache-2.0" in metadata
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_is_whole_without_a_compiler(image, tmp_path):
    assert "No broken requirements" in image.run(["pip", "check"], cwd=tmp_path)
    version = re.search(r'__version__ = "(.+)"', (ROOT / "engine/headrace/__init__.py").read_text())[1]
    assert image.run(["headrace", "--version"], cwd=tmp_path) == f"headrace {version}\n"


def test_toolkits_find_the_stand_in_for_mms(image, tmp_path):
    code = "import mms.service; print(mms.service.PredictionException('no', 400))"
    assert image.run(["python", "-c", code], cwd=tmp_path) == "no : 400\n"


def test_the_image_s_command_serves_digits_and_its_check_tells_up_from_down(image, tmp_path):
    with socket.socket() as probe:  # the check of health knows the port by its variable, so 0 will not do
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**image.environment, "HEADRACE_PORT": port, "HEADRACE_MANAGEMENT_PORT": "0"}
    environment["SAGEMAKER_BASE_DIR"] = str(tmp_path)
    check = [image.venv / "bin" / IMAGE.words("HEALTHCHECK")[0], *IMAGE.words("HEALTHCHECK")[1:]]
    command = IMAGE.words("ENTRYPOINT") + IMAGE.words("CMD")
    log = tmp_path / "log"
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [image.venv / "bin" / command[0], *command[1:]], env=environment, cwd=tmp_path, stderr=stream, stdout=stream
        )
        try:
            wait_until(lambda: b'"event":"ready"' in log.read_bytes() or server.poll() is not None, "it is not ready")
            subprocess.run(check, env=environment, check=True, timeout=60)
            events = [json.loads(line) for line in log.read_text().splitlines()]  # JSON and nothing else
            line = next(event["command"] for event in events if event["event"] == "example")
            assert str(image.venv) in line
            if shutil.which("curl"):
                done = subprocess.run(["sh", "-c", f"{line} -sf"], capture_output=True, timeout=60, check=True)
                assert json.loads(done.stdout) == {"predictions": [7]}
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0, log.read_text()
        finally:
            server.kill()
            server.wait(60)
    assert subprocess.run(check, env=environment, capture_output=True, timeout=60).returncode == 1


def test_it_says_to_sagemaker_what_it_can_do_and_runs_as_a_user():
    labels = IMAGE.pairs("LABEL")
    assert labels["com.amazonaws.sagemaker.capabilities.multi-models"] == "true"
    assert labels["com.amazonaws.sagemaker.capabilities.accept-bind-to-port"] == "true"
    users = [words[-1] for words in IMAGE.commands() if words[0] == "useradd"]
    assert users == [IMAGE.last("USER")]
