"""startup_models: what a server starts with, given words, a store, SageMaker's layout, or nothing."""

import io
import json
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import startup_models
from headrace.config import ModelSpec
from headrace.errors import ConfigError


@pytest.fixture
def store(tmp_path):
    """A directory `plain`, one with a manifest, archives of each kind, and files that are no models."""
    (tmp_path / "plain").mkdir()
    manifest = json.dumps({"model": {"modelName": "named", "handler": "service:handle"}})
    (tmp_path / "folder" / "MAR-INF").mkdir(parents=True)
    (tmp_path / "folder" / "MAR-INF" / "MANIFEST.json").write_text(manifest)
    with zipfile.ZipFile(tmp_path / "zipped.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", manifest.replace("named", "packed"))
    with zipfile.ZipFile(tmp_path / "broken.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", "{not json")
    with tarfile.open(tmp_path / "ball.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("model.py"), io.BytesIO())
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def choose(*named, store=None, entries=(), environ=None):
    return startup_models.choose(named, None if store is None else str(store), entries, environ or {})


def problems(*named, **more) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        choose(*named, **more)
    return str(caught.value).splitlines()


def test_named_models_have_absolute_paths(store, monkeypatch):
    monkeypatch.chdir(store)
    choice = choose("a=plain", "b-1.0_x=./zipped.mar", "c=ball.tar.gz")
    assert choice.models == (
        ModelSpec("a", str(store / "plain")),
        ModelSpec("b-1.0_x", str(store / "zipped.mar")),
        ModelSpec("c", str(store / "ball.tar.gz")),
    )
    assert (choice.store, choice.sagemaker, choice.origin) == (None, False, "the command line")


def test_a_path_may_contain_an_equals_sign(store):
    (store / "lr=0.1").mkdir()
    assert choose(f"a={store}/lr=0.1").models[0].path == f"{store}/lr=0.1"


def test_all_mistakes_are_reported_together(store):
    assert problems("plain", f"a={store}/absent", f"../x={store}/plain", f"b={store}/notes.txt", "c=") == [
        "model 'plain' must be NAME=PATH, such as digits=./digits",
        f"model a: {store}/absent: no such file or directory",
        f"model name '../x' must be 1 to 255 letters, digits, `.`, `_` or `-`, and not `.` or `..` (for {store}/plain)",
        f"model b: {store}/notes.txt is neither a directory nor a zip or tar archive",
        "model 'c=' must be NAME=PATH, such as digits=./digits",
    ]


def test_two_models_of_one_name(store):
    assert problems(f"a={store}/plain", f"a={store}/folder") == [
        f"model name 'a' is given 2 times ({store}/plain, {store}/folder); names must differ"
    ]


def test_all_of_a_store_by_manifest_or_file_name(store):
    choice = choose(store=store, entries=["ALL"])
    assert [(spec.name, spec.path.removeprefix(f"{store}/")) for spec in choice.models] == [
        ("ball", "ball.tar.gz"),
        ("broken", "broken.mar"),
        ("named", "folder"),
        ("plain", "plain"),
        ("packed", "zipped.mar"),
    ]
    assert choice.store == str(store)


def test_some_of_a_store(store):
    choice = choose(store=store, entries=["x=plain", "folder", f"y={store}/zipped.mar"])
    assert [spec.name for spec in choice.models] == ["x", "named", "y"]


def test_a_store_alone_loads_nothing(store):
    assert choose(store=store).models == ()


@pytest.mark.parametrize("entry", ["a=../plain", "../plain", "a=", "a=plain/../../x"])
def test_nothing_outside_of_the_store(store, entry):
    (problem,) = problems(store=store / "folder", entries=[entry])
    assert "a file within" in problem


def test_an_absolute_path_is_the_operator_s_word_for_another_place(store):
    choice = choose(store=store / "folder", entries=[f"a={store}/plain"])
    assert choice.models == (ModelSpec("a", str(store / "plain")),)


def test_the_root_as_a_store_takes_absolute_paths(store):
    assert choose(store="/", entries=[f"model={store}/plain"]).models == (ModelSpec("model", f"{store}/plain"),)


def test_a_store_that_is_not_there(store):
    assert problems(store=store / "absent", entries=["ALL"]) == [f"--model-store {store}/absent: no such directory"]


def test_models_without_a_store():
    assert problems(entries=["ALL"]) == ["--models needs --model-store DIR, the directory that they are taken from"]


def test_sagemaker_s_model_directory(tmp_path):
    (tmp_path / "model").mkdir()
    choice = choose(environ={"SAGEMAKER_BASE_DIR": str(tmp_path)})
    assert choice.models == (ModelSpec("model", str(tmp_path / "model")),)
    assert (choice.sagemaker, choice.origin) == (True, str(tmp_path / "model"))


def test_multi_model_mode_starts_empty_even_beside_a_model_directory(tmp_path):
    (tmp_path / "model").mkdir()
    choice = choose(environ={"SAGEMAKER_BASE_DIR": str(tmp_path), "SAGEMAKER_MULTI_MODEL": "true"})
    assert (choice.models, choice.store, choice.sagemaker) == ((), "/", True)


def test_the_bundled_example_is_the_last_resort_and_says_so(tmp_path, monkeypatch):
    environ = {"SAGEMAKER_BASE_DIR": str(tmp_path)}
    monkeypatch.setattr(startup_models, "BUNDLED", str(tmp_path / "digits"))
    assert "is missing" in problems(environ=environ)[0]
    (tmp_path / "digits").mkdir()
    choice = choose(environ=environ)
    assert choice.models == (ModelSpec("digits", str(tmp_path / "digits")),)
    assert choice.origin == "the bundled example, since no model was named"


@pytest.mark.parametrize("name", ["a", "A.b-c_9", "x" * 255, "...", "-", ".a"])
def test_good_names(name):
    assert startup_models.check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "é", "a\n", "x" * 256, "a%2f", "a\0"])
def test_bad_names(name):
    with pytest.raises(ConfigError, match="1 to 255 letters"):
        startup_models.check_name(name)


@given(st.text())
def test_a_good_name_is_one_path_component_of_plain_characters(name):
    try:
        startup_models.check_name(name)
    except ConfigError:
        return
    assert name.isascii()
    assert "/" not in name
    assert name not in ("", ".", "..")


def test_preloaded_models_come_with_all_others(store):
    environ = {"HEADRACE_PRELOAD": f"a={store / 'plain'}, b={store / 'folder'}"}
    chosen = choose(environ=environ)
    assert chosen.models == (ModelSpec("a", str(store / "plain")), ModelSpec("b", str(store / "folder")))
    assert chosen.origin == "HEADRACE_PRELOAD"
    chosen = choose(f"c={store / 'plain'}", environ=environ)
    assert [model.name for model in chosen.models] == ["c", "a", "b"]
    chosen = choose(environ={**environ, "SAGEMAKER_MULTI_MODEL": "true"})
    assert ([model.name for model in chosen.models], chosen.store) == (["a", "b"], "/")
    assert chosen.origin == "SAGEMAKER_MULTI_MODEL and HEADRACE_PRELOAD"


def test_preloaded_models_may_be_relative_to_the_store(store):
    chosen = choose(store=store, entries=["plain"], environ={"HEADRACE_PRELOAD": "x=folder,zipped.mar"})
    assert [model.name for model in chosen.models] == ["plain", "x", "packed"]


def test_what_cannot_be_preloaded_is_told(store):
    assert "HEADRACE_PRELOAD: 'plain' must be NAME=PATH" in problems(environ={"HEADRACE_PRELOAD": "plain"})[0]
    assert "HEADRACE_PRELOAD ../x: must be" in problems(store=store, environ={"HEADRACE_PRELOAD": "../x"})[0]
    environ = {"HEADRACE_PRELOAD": f"a={store / 'plain'}"}
    assert "'a' is given 2 times" in problems(f"a={store / 'plain'}", environ=environ)[0]
