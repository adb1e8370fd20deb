"""Both forms of an archive's manifest."""

import pytest

from headrace import manifest
from headrace.errors import InvalidModel

MODEL = {"modelName": "m", "handler": "service.py:handle"}
NEW = b'{"runtime": "python", "model": {"modelName": "m", "handler": "service.py:handle"}}'
OLD = b'{"Engine": {"MXNet": 0.12}, "Model": {"Model-Name": "m", "Service": "service.py:handle"}, "License": "x"}'


@pytest.mark.parametrize(
    "files",
    [{"MAR-INF/MANIFEST.json": NEW}, {"MANIFEST.json": OLD}, {"MAR-INF/MANIFEST.json": NEW, "MANIFEST.json": b"{"}],
)
def test_either_form(files):
    found = manifest.read(files.get, "m")
    assert found["model"] == MODEL
    assert (manifest.model_name(found), manifest.handler(found)) == ("m", "service.py:handle")


@pytest.mark.parametrize("text", [b"[]", b"{", b'{"version": 1}', b'{"Model": "m"}', b"\xff", b"[" * 100_000])
def test_a_file_of_that_name_that_is_no_manifest_is_somebody_elses(text):
    assert manifest.read({"MANIFEST.json": text}.get, "m") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"[" * 100_000, "not JSON"),
        (b" " * (1 << 20), "not JSON"),
    ],
)
def test_a_manifest_that_makes_no_sense(text, reason):
    with pytest.raises(InvalidModel, match=f"where/MAR-INF/MANIFEST.json .*{reason}"):
        manifest.read({manifest.PATH: text}.get, "where")


def test_one_that_is_too_large(tmp_path):
    (tmp_path / "MAR-INF").mkdir()
    (tmp_path / manifest.PATH).write_bytes(b" " * (manifest.BYTES_MAX + 2))
    with pytest.raises(InvalidModel, match="more than 1048576 bytes"):
        manifest.of_directory(tmp_path)


@pytest.mark.parametrize("model", [None, [], {"modelName": 1, "handler": ""}, {}])
def test_a_manifest_may_say_nothing(model):
    assert (manifest.model_name({"model": model}), manifest.handler({"model": model})) == (None, None)
