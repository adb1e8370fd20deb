"""The manifest of a model archive, in the two forms that there are, read without running any of the model's code.

    MAR-INF/MANIFEST.json   {"model": {"modelName": ..., "handler": ...}, ...}   model-archiver's, of archives 1.0
    MANIFEST.json           {"Model": {"Model-Name": ..., "Service": ...}, ...}  of mxnet-model-server 0.x

The older form becomes the newer, so that nothing else has to know of it. A MANIFEST.json without a "Model" is somebody
else's file.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from headrace.errors import InvalidModel

PATH = "MAR-INF/MANIFEST.json"
LEGACY_PATH = "MANIFEST.json"
BYTES_MAX = 1 << 20

_LEGACY_MODEL = {
    "Model-Name": "modelName",
    "Service": "handler",
    "Description": "description",
    "Model-Format": "modelFormat",
    "Parameters": "parametersFile",
    "Symbol": "symbolFile",
}

Manifest = Mapping[str, Any]


def read(member: Callable[[str], bytes | None], where: str) -> Manifest | None:
    """The manifest in its newer form; None where there is none.

    member: gives more than the first BYTES_MAX bytes of the file of that name, None without one; where: names the
    model's place in an error. Raises InvalidModel when MAR-INF/MANIFEST.json is no JSON object, or too large to be one.
    """
    text = member(PATH)
    if text is not None:
        return _parse(text, f"{where}/{PATH}")
    text = member(LEGACY_PATH)
    if text is None:
        return None
    try:
        legacy = _parse(text, LEGACY_PATH)
    except InvalidModel:
        return None
    return _migrate(legacy)


def of_directory(directory: Path) -> Manifest | None:
    """read() of an unpacked archive; also raises InvalidModel for a file that cannot be read."""

    def member(name: str) -> bytes | None:
        try:
            with (directory / name).open("rb") as file:
                return file.read(BYTES_MAX + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise InvalidModel(f"{directory / name} cannot be read: {error}") from None

    return read(member, str(directory))


def model_name(manifest: Manifest | None) -> str | None:
    """The name that the model has of itself."""
    return _of_model(manifest, "modelName")


def handler(manifest: Manifest | None) -> str | None:
    """`module:function` of the model's entry point."""
    return _of_model(manifest, "handler")


def described(manifest: Manifest | None) -> dict[str, str]:
    """What a description of the model shows of it, under Multi Model Server's names; what is not said is left out."""
    engine = (manifest or {}).get("engine")
    found = {
        "modelVersion": _of_model(manifest, "modelVersion"),
        "engine": engine.get("engineName") if isinstance(engine, dict) else None,
        "runtime": (manifest or {}).get("runtime"),
    }
    return {name: value for name, value in found.items() if isinstance(value, str) and value}


def _of_model(manifest: Manifest | None, key: str) -> str | None:
    model = (manifest or {}).get("model")
    value = model.get(key) if isinstance(model, dict) else None
    return value if isinstance(value, str) and value else None


def _parse(text: bytes, path: str) -> dict[str, Any]:
    if len(text) > BYTES_MAX:
        raise InvalidModel(f"{path} has more than {BYTES_MAX} bytes")
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"{path} is not JSON: {error}") from None
    if not isinstance(manifest, dict):
        raise InvalidModel(f"{path} must be a JSON object, not {type(manifest).__name__}")
    return manifest


def _migrate(legacy: Manifest) -> Manifest | None:
    model = legacy.get("Model")
    if not isinstance(model, dict):
        return None
    return {"runtime": "python", "model": {new: model[old] for old, new in _LEGACY_MODEL.items() if old in model}}
