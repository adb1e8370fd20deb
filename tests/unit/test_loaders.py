"""From a model directory to something that answers: which entry point, what a failed load says, what it leaves."""

import gc
import json
import os
import sys
from pathlib import Path

import pytest
from local_request import LocalRequest

from headrace.errors import ModelError, OutOfMemory
from headrace.handler import HandlerName
from headrace.loaders import Options, find_entry, load
from headrace.model_settings import ModelSettings, read_settings

NATIVE = """
from headrace import Model

class Double(Model):
    shape = [2]
    max_batch_delay_ms = 1.5

    def load(self, directory):
        self.factor = float((directory / "factor").read_text()) if (directory / "factor").exists() else 2

    def predict(self, x):
        return x * self.factor
"""
SERVICE = "def handle(data, context):\n    return data and [str(context.manifest)] * len(data)\n"


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        path = directory / name.replace("__", "/").replace("_py", ".py").replace("_json", ".json").replace(
            "_toml", ".toml"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


@pytest.fixture
def loaded():
    """load() that is undone at the end."""
    opened = []

    def open_one(directory, handler=None, **options):
        opened.append(load(directory, handler, Options("m", **options), len(opened)))
        return opened[-1]

    yield open_one
    for servable in opened:
        servable.unload()


def answer(servable, body, **kwargs):
    request = LocalRequest(body, **kwargs)
    servable.run([request])
    assert request.status == 200, request.answer
    return request.answer


def manifest(handler):
    return json.dumps({"runtime": "python", "model": {"modelName": "m", "handler": handler}})


# Which entry point


def test_native_model(tmp_path, loaded):
    servable = loaded(write(tmp_path, model_py=NATIVE, factor="3"))
    assert json.loads(answer(servable, [[1, 2]])) == {"predictions": [[3.0, 6.0]]}
    assert (servable.name, servable.max_batch_size, servable.max_batch_delay_ns) == ("m", 32, 1_500_000)


def test_manifest_comes_before_a_native_model(tmp_path, loaded):
    write(tmp_path, model_py=NATIVE, service_py=SERVICE, **{"MAR-INF__MANIFEST_json": manifest("service.py:handle")})
    assert b"'modelName': 'm'" in answer(loaded(tmp_path), {})


def test_handler_named_at_registration_comes_before_the_manifests(tmp_path, loaded):
    write(tmp_path, other_py=SERVICE.replace("str(context.manifest)", "'other'"))
    write(tmp_path, **{"MAR-INF__MANIFEST_json": manifest("service.py:handle")})
    assert answer(loaded(tmp_path, "other:handle"), {}) == b"other"


def test_manifest_without_a_handler_leaves_the_choice_open(tmp_path, loaded):
    write(tmp_path, model_py=NATIVE, **{"MAR-INF__MANIFEST_json": '{"model": {}}'})
    assert answer(loaded(tmp_path), [[1, 2]])


def test_default_handler_serves_a_directory_whose_model_py_is_something_else(tmp_path, loaded):
    write(tmp_path, model_py="class Net: ...\n", service_py=SERVICE)
    assert answer(loaded(tmp_path, default_handler="service:handle"), {}) == b"None"


def test_native_model_comes_before_the_default_handler(tmp_path):
    assert find_entry(write(tmp_path, model_py=NATIVE), None, "service:handle").handler is None


def test_native_model_by_way_of_a_module_of_its_own(tmp_path, loaded):
    write(tmp_path, model_py="from base import Double\n", base_py=NATIVE)
    assert answer(loaded(tmp_path), [[1, 2]])


def test_handler_in_a_folder_finds_its_neighbours_first(tmp_path, loaded):
    source = "import near\ndef handle(data, context):\n    return data and [near.WHO]\n"
    write(tmp_path, sub__service_py=source, sub__near_py="WHO = 'sub'\n", near_py="WHO = 'top'\n")
    assert answer(loaded(tmp_path, "sub/service.py:handle"), {}) == b"sub"


def test_handler_by_absolute_path_sees_the_model_directory(tmp_path, loaded):
    source = "def handle(data, context):\n    import near\n    return data and [near.WHO]\n"
    write(tmp_path, toolkit__handler_service_py=source, model__near_py="WHO = 'model'\n")
    handler = f"{tmp_path}/toolkit/handler_service.py:handle"
    assert answer(loaded(tmp_path / "model", handler), {}) == b"model"


def test_two_models_of_equal_names_are_served_side_by_side(tmp_path, loaded):
    first = loaded(write(tmp_path / "1", model_py=NATIVE, factor="2"))
    second = loaded(write(tmp_path / "2", model_py=NATIVE, factor="5"))
    for _ in range(2):
        assert json.loads(answer(first, [[1, 1]]))["predictions"] == [[2, 2]]
        assert json.loads(answer(second, [[1, 1]]))["predictions"] == [[5, 5]]


def test_model_in_a_process_of_its_own_has_plain_names(tmp_path, loaded):
    source = NATIVE.replace(
        "return x",
        "import os, sys\n        assert sys.modules[__name__] and __name__ == 'model'\n"
        "        assert os.getcwd() == DIRECTORY\n        return x",
    )
    directory = write(tmp_path, model_py=f"DIRECTORY = {str(tmp_path)!r}\n{source}")
    cwd = os.getcwd()
    try:
        servable = loaded(directory, isolation="process")
        assert json.loads(answer(servable, [[1, 2]])) == {"predictions": [[2.0, 4.0]]}
    finally:
        servable.unload()
    assert os.getcwd() == cwd
    assert "model" not in sys.modules


# Settings


@pytest.mark.parametrize(
    ("toml", "options", "expected"),
    [
        ("", {}, (32, 1_500_000)),
        ("max_batch_size = 7", {}, (7, 1_500_000)),
        ("max_batch_size = 7\nmax_batch_delay_ms = 2", {"batch_size": 3, "batch_delay_ms": 0.0}, (3, 0)),
        ("", {"max_batch_size": 5, "max_batch_delay_ms": 9.0}, (5, 1_500_000)),
    ],
)
def test_batch_settings_come_from_registration_file_class_and_server(tmp_path, loaded, toml, options, expected):
    servable = loaded(write(tmp_path, model_py=NATIVE, headrace_toml=toml), **options)
    assert (servable.max_batch_size, servable.max_batch_delay_ns) == expected


def test_handler_takes_one_request_a_call_unless_registered_with_more(tmp_path, loaded):
    write(tmp_path, service_py=SERVICE)
    assert loaded(tmp_path, "service").max_batch_size == 1
    assert loaded(tmp_path, "service", batch_size=8, batch_delay_ms=100).max_batch_delay_ns == 100_000_000


def test_settings_file_overrides_the_class(tmp_path):
    write(
        tmp_path,
        headrace_toml='shape = [3, 4]\ndtype = "int64"\nisolation = "process"\nreplicas = 2\nretry_members = false\n'
        "pinned = true",
    )
    from headrace import Model

    settings = ModelSettings.of(Model, tmp_path)
    assert settings == ModelSettings(None, None, None, None, "int64", (3, 4), "process", (2, 2), False, True)
    assert read_settings(tmp_path)["isolation"] == "process"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("max_batch = 3", "unknown key 'max_batch'"),
        ("max_batch_size = 0", "max_batch_size = 0 is wrong; it must be an integer from 1 up"),
        ("max_batch_size = true", "max_batch_size = True is wrong"),
        ("max_batch_delay_ms = -1", "max_batch_delay_ms = -1 is wrong"),
        ("dtype = 32", "dtype = 32 is wrong"),
        ('dtype = "bird"', "dtype = 'bird' is wrong"),
        ('dtype = "complex64"', "dtype = 'complex64' is wrong"),
        ("shape = 64", "shape = 64 is wrong"),
        ("shape = [0]", r"shape = \[0\] is wrong"),
        ('isolation = "both"', "isolation = 'both' is wrong"),
        ("retry_members = 1", "retry_members = 1 is wrong"),
        ("pinned = 1", "pinned = 1 is wrong; it must be true or false"),
        ("shape = [", "is not TOML"),
        ("\x00", "is not TOML"),
    ],
)
def test_bad_settings_file_is_named_with_its_key(tmp_path, loaded, toml, message):
    write(tmp_path, model_py=NATIVE, headrace_toml=toml)
    with pytest.raises(ModelError, match=message):
        loaded(tmp_path)


def test_bad_class_attribute_is_named(tmp_path, loaded):
    write(tmp_path, model_py=NATIVE.replace("shape = [2]", "max_batch_size = 'many'"))
    with pytest.raises(ModelError, match="class Double: max_batch_size = 'many' is wrong"):
        loaded(tmp_path)


# Failures


def test_empty_directory_says_what_was_looked_for(tmp_path, loaded):
    with pytest.raises(ModelError, match=r"model m: .*holds no model: looked for .*MANIFEST.json, .*model\.py"):
        loaded(tmp_path)


def test_missing_directory_is_named(tmp_path, loaded):
    with pytest.raises(ModelError, match="nowhere is not a directory"):
        loaded(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["{", "[]", "\x00", "[" * 100_000])
def test_bad_manifest_is_named(tmp_path, loaded, text):
    with pytest.raises(ModelError, match=r"MANIFEST\.json"):
        loaded(write(tmp_path, **{"MAR-INF__MANIFEST_json": text}))


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("import headrace\n1 / 0\n", ModelError, "model m: load failed: ZeroDivisionError: division by zero"),
        ("import headrace, nowhere\n", ModelError, "ModuleNotFoundError: No module named 'nowhere'"),
        (
            "from headrace import Model\nfrom helper import nothing\n",
            ModelError,
            "cannot import name 'nothing' from 'helper'",
        ),
        ("headrace = \n", ModelError, "SyntaxError"),
        ("import headrace, sys\nsys.exit('bye')\n", ModelError, "model m: load failed: SystemExit: bye"),
        ("import headrace\nraise MemoryError\n", OutOfMemory, "model m: out of memory while loading"),
        ("x = 'headrace'\n", ModelError, "defines no subclass of headrace.Model"),
        (NATIVE + "\nclass Triple(Double.__base__): ...\n", ModelError, "several models: Double, Triple"),
        (NATIVE.replace("predict", "predicct"), ModelError, "class Double defines neither predict"),
        (
            NATIVE.replace("def load(self, directory):", "def load(self, directory):\n        raise KeyError('w')"),
            ModelError,
            "KeyError: 'w'",
        ),
        (NATIVE + "    def warm_up(self):\n        raise RuntimeError('cold')\n", ModelError, "RuntimeError: cold"),
        (NATIVE + "    def load(self, directory):\n        raise SystemExit\n", ModelError, "load failed: SystemExit"),
        (NATIVE + "    def load(self, directory):\n        raise MemoryError('weights')\n", OutOfMemory, "weights"),
    ],
)
def test_failed_load_says_why_and_leaves_nothing(tmp_path, model, error, message):
    write(tmp_path, model_py=model, helper_py="import lazy\n", lazy_py="class Held: ...\nheld = Held()\n")
    before = set(sys.modules), list(sys.path), len(os.listdir("/proc/self/fd"))
    with pytest.raises(error, match=message) as info:
        load(tmp_path, None, Options("m"), 7)
    assert (set(sys.modules), list(sys.path), len(os.listdir("/proc/self/fd"))) == before
    assert info.value.__context__ is None
    gc.collect()
    names = [getattr(thing, "__module__", "") for thing in gc.get_objects() if isinstance(thing, type)]
    assert not [name for name in names if str(name).startswith("_hr7")]


def test_detail_of_a_failed_load_is_the_models_own_traceback(tmp_path):
    write(
        tmp_path, model_py="import headrace\nimport helper\n", helper_py="def f():\n    raise ValueError('why')\nf()\n"
    )
    with pytest.raises(ModelError) as info:
        load(tmp_path, None, Options("m"), 7)
    detail = info.value.detail
    assert [line.split(", in ")[1] for line in detail.splitlines() if line.startswith("  File")] == [
        "<module>",
        "<module>",
        "f",
    ]
    assert detail.endswith("ValueError: why\n")


def test_unloaded_model_is_gone(tmp_path):
    write(tmp_path, model_py=NATIVE + "    def unload(self):\n        (DIRECTORY / 'unloaded').touch()\n")
    with (tmp_path / "model.py").open("a") as file:
        file.write("from pathlib import Path\nDIRECTORY = Path(__file__).parent\n")
    servable = load(tmp_path, None, Options("m"), 8)
    answer(servable, [[1, 2]])
    canary = servable.unload()
    gc.collect()
    assert (tmp_path / "unloaded").exists()
    assert not canary.is_gone()  # the servable itself is still here
    del servable
    gc.collect()
    assert canary.is_gone()


@pytest.fixture
def frozen_heap():
    """What is there already stays out of garbage collections, which makes hundreds of them affordable."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("frozen_heap")
def test_load_run_and_unload_leave_nothing(tmp_path):
    write(tmp_path, model_py=NATIVE)

    def cycle():
        servable = load(tmp_path, None, Options("m"), 9)
        answer(servable, [[1, 2]])
        canary = servable.unload()
        del servable
        gc.collect()
        assert canary.is_gone()

    for _ in range(10):
        cycle()
    objects, fds = len(gc.get_objects()), len(os.listdir("/proc/self/fd"))
    for _ in range(200):
        cycle()
    assert len(gc.get_objects()) - objects < 50
    assert len(os.listdir("/proc/self/fd")) == fds


def test_handler_name_of_an_entry(tmp_path):
    write(tmp_path, **{"MAR-INF__MANIFEST_json": manifest("a.b:c")})
    assert find_entry(tmp_path, None, None).handler == HandlerName("a.b", "c", None)
