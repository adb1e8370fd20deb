"""A cheap look at a model's files, running none of its code: what placement and registration need to know."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from headrace.model_settings import read_settings

MANIFEST = "MAR-INF/MANIFEST.json"
NATIVE = "model.py"
READ_MAX = 1 << 20  # bytes of a manifest or module that are looked at


@dataclass(frozen=True, slots=True)
class Artifact:
    """is_native: has a model.py of ours and no manifest (False when in doubt); model_name: the manifest's, else None.

    isolation, replicas: what the model's headrace.toml says, else None.
    """

    is_native: bool
    model_name: str | None
    isolation: str | None = None
    replicas: int | None = None


def look(path: str) -> Artifact:
    """Look at a directory or a zip archive. Raises ModelError for a headrace.toml that makes no sense."""
    directory = Path(path)
    if not directory.is_dir():
        return _look_into(path)
    source, manifest = _head(directory / NATIVE), _head(directory / MANIFEST)
    settings = read_settings(directory)
    return Artifact(
        manifest is None and source is not None and b"headrace" in source,
        _name_in(manifest),
        settings.get("isolation"),
        settings.get("replicas"),
    )


def _look_into(path: str) -> Artifact:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            manifest = archive.open(MANIFEST).read(READ_MAX) if MANIFEST in names else None
    except Exception:  # no zip archive, or a broken one, of which the loader will say more
        return Artifact(False, None)
    return Artifact(NATIVE in names and manifest is None, _name_in(manifest))


def _head(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(READ_MAX)
    except OSError:
        return None


def _name_in(manifest: bytes | None) -> str | None:
    try:
        name = json.loads(manifest or b"null")["model"]["modelName"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return name if isinstance(name, str) and name else None
