"""Archives through a whole server: loaded, gone when the model is, and nothing left behind by a failure."""

import json
import os
import shutil
import signal
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import WATCHDOG_S, Server, is_alive, wait_until

NATIVE = """
from headrace import Model
class M(Model):
    def handle(self, requests):
        return ["native"] * len(requests)
"""
HANDLER = """
import os
def handle(data, context):
    return data and [os.getcwd() + " " + context.manifest["model"]["modelName"]]
"""
MANIFEST = {"runtime": "python", "model": {"modelName": "named", "handler": "service.py:handle"}}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A store, and the folder under which the server unpacks."""
    store = tmp_path / "store"
    store.mkdir()
    with zipfile.ZipFile(store / "m.mar", "w") as out:
        out.writestr("MAR-INF/MANIFEST.json", json.dumps(MANIFEST))
        out.writestr("service.py", HANDLER)
    with zipfile.ZipFile(store / "native.zip", "w") as out:
        out.writestr("model.py", NATIVE)
    (tmp_path / "model.py").write_text(NATIVE)
    with tarfile.open(store / "m.tar.gz", "w:gz") as out:
        out.add(tmp_path / "model.py", "model.py")
    with zipfile.ZipFile(store / "evil.mar", "w") as out:
        out.writestr("../../evil", "x")
    with zipfile.ZipFile(store / "raising.mar", "w") as out:
        out.writestr("model.py", "import headrace\nraise ValueError('on purpose')\n")
    (store / "no.mar").write_text("no archive")
    (tmp_path / "tmp").mkdir()
    return Place(tmp_path)


class Place:
    def __init__(self, directory: Path) -> None:
        self.store, self.tmp = directory / "store", directory / "tmp"

    def folders(self) -> list[Path]:
        """What is unpacked at the moment."""
        return [path for root in self.tmp.iterdir() for path in root.iterdir() if path.is_dir()]


def load(server: Server, **document):
    answer = server.manage("POST", "/models", document)
    return answer.status, answer.json()


def test_archives_are_served_and_leave_nothing(serve, place):
    server = serve("--model-store", str(place.store), "--models", "native.zip", TMPDIR=str(place.tmp))
    assert server.post("/invocations", b"{}").body == b"native"
    assert load(server, url="m.mar")[0] == 200
    where, name = server.post("/predictions/named", b"{}").body.decode().split()
    assert name == "named"
    assert Path(where) in place.folders()
    assert load(server, url="m.tar.gz", model_name="tar")[0] == 200
    assert server.post("/predictions/tar", b"{}").body == b"native"
    assert len(place.folders()) == 3
    for url, status, reason in [
        ("evil.mar", 400, "'../../evil' leads out of it"),
        ("no.mar", 400, "no zip, tar or tar.gz archive"),
        ("raising.mar", 500, "ValueError: on purpose"),
    ]:
        answered, document = load(server, url=url, model_name="bad")
        assert answered == status
        assert reason in document["message"]
        assert len(place.folders()) == 3
    shutil.copy(place.store / "native.zip", place.store / "raising.mar")  # mended
    assert load(server, url="raising.mar", model_name="bad")[0] == 200
    assert server.post("/predictions/bad", b"{}").body == b"native"
    assert server.manage("DELETE", "/models/named").status == 200
    assert Path(where) not in place.folders()
    assert server.stop() == 0
    assert list(place.tmp.iterdir()) == []


def test_what_a_killed_server_left_is_taken_away_by_the_next(serve, place):
    first = Server("--model-store", str(place.store), "--models", "native.zip", TMPDIR=str(place.tmp)).ready()
    family = first.family()
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait(WATCHDOG_S)
    first.reader.join(WATCHDOG_S)
    wait_until(lambda: not any(map(is_alive, family)), "processes outlive their server")
    (left,) = place.tmp.iterdir()
    serve("--model-store", str(place.store), "--models", "native.zip", TMPDIR=str(place.tmp))
    (root,) = place.tmp.iterdir()
    assert root != left
