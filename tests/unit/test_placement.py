"""Placement, and the look at a model's files that it goes by."""

import json
import zipfile
from pathlib import Path

import pytest

from headrace import artifact, placement
from headrace.artifact import Artifact
from headrace.errors import ModelError, Overloaded

NATIVE = Artifact(is_native=True, model_name=None)
HANDLER = Artifact(is_native=False, model_name=None)


@pytest.mark.parametrize(
    ("seen", "handler", "configured", "expected"),
    [
        (NATIVE, None, "auto", "shared"),
        (NATIVE, "service.py:handle", "auto", "process"),  # named at registration
        (HANDLER, None, "auto", "process"),
        (HANDLER, None, "shared", "shared"),
        (NATIVE, None, "process", "process"),
        (Artifact(True, None, isolation="process"), None, "auto", "process"),
        (Artifact(False, None, isolation="shared"), None, "auto", "shared"),
        (Artifact(True, None, isolation="process"), None, "shared", "shared"),  # the operator has the last word
    ],
)
def test_isolation(seen: Artifact, handler: str | None, configured: str, expected: str) -> None:
    assert placement.isolation_of(seen, handler, configured) == expected


@pytest.mark.parametrize(
    ("asked", "own", "is_startup", "isolation", "expected"),
    [
        (None, None, True, "shared", (4, 4)),  # every shared worker
        (None, None, True, "process", (4, 4)),
        (None, None, False, "shared", (1, 4)),  # as its load demands
        (None, None, False, "process", (1, 1)),
        (None, (2, 2), True, "shared", (2, 2)),
        (None, (2, 3), False, "shared", (2, 3)),
        (None, (1, 9), False, "process", (1, 9)),
        ((3, 3), (2, 2), False, "shared", (3, 3)),
        ((9, 9), None, False, "shared", (4, 4)),  # there are no more
        ((9, 9), None, False, "process", (9, 9)),
    ],
)
def test_replicas(
    asked: tuple[int, int] | None,
    own: tuple[int, int] | None,
    is_startup: bool,
    isolation: str,
    expected: tuple[int, int],
) -> None:
    seen = Artifact(True, None, replicas=own)
    assert placement.replicas_of(seen, asked, is_startup, isolation, shared_workers=4) == expected


def test_the_emptiest_workers_are_chosen() -> None:
    counts = {0: 3, 1: 1, 2: 0, 3: 1}
    assert placement.choose_shared(1, counts) == [2]
    assert placement.choose_shared(2, counts) == [1, 2]
    assert placement.choose_shared(3, counts) == [1, 2, 3]
    assert placement.choose_shared(9, counts) == [0, 1, 2, 3]


def test_the_fullest_worker_gives_up_its_replica() -> None:
    assert placement.choose_to_leave([0, 1, 2], {0: 3, 1: 5, 2: 1}) == 1
    assert placement.choose_to_leave([0, 1], {0: 3, 1: 3}) == 1


def test_models_loaded_one_by_one_spread_evenly() -> None:
    counts = dict.fromkeys(range(3), 0)
    for _ in range(9):
        (worker,) = placement.choose_shared(1, counts)
        counts[worker] += 1
    assert counts == {0: 3, 1: 3, 2: 3}


def test_the_lowest_free_index() -> None:
    assert placement.free_index({0, 1, 3}, 1, 10) == 2
    assert placement.free_index({}, 4, 10) == 4
    with pytest.raises(Overloaded, match="all 4 workers are in use"):
        placement.free_index({2, 3}, 2, 4)


def write(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


MANIFEST = json.dumps({"model": {"modelName": "noop", "handler": "service.py:handle"}})
FILES = {
    "native": ({"model.py": "from headrace import Model"}, Artifact(True, None)),
    "a network in model.py, for a handler": ({"model.py": "import torch"}, Artifact(False, None)),
    "script": ({"code/inference.py": ""}, Artifact(False, None)),
    "MMS": ({"MAR-INF/MANIFEST.json": MANIFEST, "service.py": ""}, Artifact(False, "noop")),
    "manifest beats model.py": ({"MAR-INF/MANIFEST.json": MANIFEST, "model.py": "headrace"}, Artifact(False, "noop")),
    "broken manifest": ({"MAR-INF/MANIFEST.json": "{"}, Artifact(False, None)),
    "a manifest of lists": ({"MAR-INF/MANIFEST.json": "[" * 100_000}, Artifact(False, None)),
    "a name that is no text": ({"MAR-INF/MANIFEST.json": '{"model": {"modelName": 5}}'}, Artifact(False, None)),
    "nothing": ({}, Artifact(False, None)),
}


@pytest.mark.parametrize(("files", "expected"), FILES.values(), ids=FILES)
def test_a_look_at_a_directory(tmp_path: Path, files: dict[str, str], expected: Artifact) -> None:
    assert artifact.look(write(tmp_path, files)) == expected


def test_settings_are_seen(tmp_path: Path) -> None:
    path = write(tmp_path, {"model.py": "import headrace", "headrace.toml": 'isolation = "process"\nreplicas = 3\n'})
    assert artifact.look(path) == Artifact(True, None, "process", (3, 3))


def test_settings_that_make_no_sense_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="replicas = 0 is wrong"):
        artifact.look(write(tmp_path, {"headrace.toml": "replicas = 0"}))


CLASS = "from headrace import Model\nclass M(Model):\n    {}\n"


@pytest.mark.parametrize(
    ("statement", "toml", "isolation"),
    [
        ('isolation = "process"', None, "process"),
        ('isolation: str = "shared"', None, "shared"),
        ('isolation = "process"', 'isolation = "shared"', "shared"),  # the file overrides the class
        ('isolation = "elsewhere"', None, None),  # which the load refuses
        ("isolation = chosen()", None, None),
        ("isolation = (", None, None),  # no Python
        ('"""about isolation"""', None, None),
    ],
)
def test_isolation_that_a_class_declares(tmp_path, statement, toml, isolation):
    files = {"model.py": CLASS.format(statement)} | ({} if toml is None else {"headrace.toml": toml})
    assert artifact.look(write(tmp_path, files)).isolation == isolation


def test_a_look_into_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "noop.mar"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", MANIFEST)
    assert artifact.look(str(path)) == Artifact(False, "noop")
    path.write_bytes(b"PK\x03\x04 no archive")
    assert artifact.look(str(path)) == Artifact(False, None)
