"""A cheap look at a model's files, running none of its code: what placement and registration need to know."""

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headrace import manifest
from headrace.errors import InvalidModel, ModelError
from headrace.model_settings import SETTINGS_FILE, parse_settings

NATIVE = "model.py"
FILES_MAX = 10_000  # that are added up
READ_MAX = manifest.BYTES_MAX + 1  # bytes of a file that are looked at
CODE_FILES_MAX, CODE_BYTES_MAX = 100, 1 << 20  # that are read to tell whether two models have the same code


@dataclass(frozen=True, slots=True)
class Artifact:
    """is_native: has a model.py of ours and no manifest (False when in doubt); model_name: the manifest's, else None.

    isolation, replicas (least, most), pinned: what the model's headrace.toml says, else None or False; where it says
    nothing of isolation, what its class does. described: what the manifest says that a description of the model shows.
    """

    is_native: bool
    model_name: str | None
    isolation: str | None = None
    replicas: tuple[int, int] | None = None
    pinned: bool = False
    described: Mapping[str, str] = field(default_factory=dict)


def is_url(path: str) -> bool:
    """Whether that is where to fetch a model from, rather than where it lies."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def look(path: str) -> Artifact:
    """Look at a directory or a zip archive. Raises ModelError for a headrace.toml that makes no sense.

    A tar archive has no directory and would have to be read whole: it stays in doubt, and gets its own process.
    """
    directory = Path(path)
    if directory.is_dir():
        return _artifact(lambda name: _head(directory / name), path)
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            return _artifact(lambda name: archive.open(name).read(READ_MAX) if name in names else None, path)
    except ModelError:
        raise
    except Exception:  # no zip archive, or a broken one, of which unpacking will say more
        return Artifact(False, None)


def size_bytes(path: str) -> int:
    """Bytes of the archive, or of the files in the directory and below; what cannot be read counts nothing."""
    total, count, directories = 0, 0, [path]
    while directories and count < FILES_MAX:
        directory = directories.pop()
        try:
            entries = list(os.scandir(directory))
        except NotADirectoryError:
            return os.stat(path).st_size
        except OSError:
            continue
        for entry in entries[: FILES_MAX - count]:
            count += 1
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.path)
            else:
                with contextlib.suppress(OSError):
                    total += entry.stat().st_size  # of what a link leads to: hubs link to shared files
    return total


def code_digest(directory: str) -> bytes:
    """Of the Python files in the directory and below, and of what they are called: models with the same code have the
    same one. b"" when there is more code than is worth reading, or none can be read."""
    import hashlib  # 1 MiB and more, with OpenSSL, that a server without loads need not hold

    digest, left = hashlib.blake2b(digest_size=16), CODE_BYTES_MAX
    directories, count = [directory], 0
    while directories:
        place = directories.pop()
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
            if len(entries) > FILES_MAX:
                return b""
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.path)
                elif entry.name.endswith((".py", SETTINGS_FILE)):
                    with open(entry.path, "rb") as file:
                        text = file.read(left + 1)
                    count, left = count + 1, left - len(text)
                    if left < 0 or count > CODE_FILES_MAX:
                        return b""
                    digest.update(b"%s\0%d\0" % (os.fsencode(os.path.relpath(entry.path, directory)), len(text)))
                    digest.update(text)
        except OSError:
            return b""
    return digest.digest() if count else b""


def _artifact(read: Callable[[str], bytes | None], path: str) -> Artifact:
    """read: gives the beginning of the file of that name, None when there is none."""
    source, text = read(NATIVE), read(SETTINGS_FILE)
    settings = {} if text is None else parse_settings(text, f"{path}/{SETTINGS_FILE}")
    try:
        found = manifest.read(read, path)
    except InvalidModel:
        return Artifact(False, None)  # the load will say so
    is_native = found is None and source is not None and b"headrace" in source
    return Artifact(
        is_native,
        manifest.model_name(found),
        settings.get("isolation") or (_declared_isolation(source or b"") if is_native else None),
        settings.get("replicas"),
        settings.get("pinned", False),
        manifest.described(found),
    )


def _declared_isolation(source: bytes) -> str | None:
    """What a class of model.py says of its isolation, as a plain string: placement comes before any of the code."""
    if b"isolation" not in source:
        return None
    import ast

    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # the load will say so
    for model in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for statement in model.body:
            if isinstance(statement, (ast.Assign, ast.AnnAssign)) and isinstance(statement.value, ast.Constant):
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                names = [target.id for target in targets if isinstance(target, ast.Name)]
                if "isolation" in names and statement.value.value in ("shared", "process"):
                    return str(statement.value.value)
    return None


def _head(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(READ_MAX)
    except OSError:
        return None
