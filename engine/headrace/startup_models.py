"""Which models a server starts with.

    named on the command line   NAME=PATH ..., or --model-store DIR --models ALL|NAME=FILE|FILE ...
    else SageMaker's layout     multi-model mode: none yet, all by API; else the directory /opt/ml/model as `model`
    else the bundled example    digits
    and, with all of them       HEADRACE_PRELOAD=ENTRY,... as for --models; instead of the bundled example

SAGEMAKER_BASE_DIR stands for /opt/ml where it is set. Whatever is wrong is collected and raised as one ConfigError.
"""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from headrace import artifact, units
from headrace.config import ModelSpec
from headrace.errors import ConfigError, ModelError

PRELOAD = "HEADRACE_PRELOAD"
ARCHIVES = (".mar", ".model", ".zip", ".tar.gz", ".tgz", ".tar")
BUNDLED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "digits")


@dataclass(frozen=True, slots=True)
class Choice:
    """models and store for the Config; sagemaker: its model directory was found; origin: what decided, for the log."""

    models: tuple[ModelSpec, ...]
    store: str | None
    sagemaker: bool
    origin: str


def choose(named: Sequence[str], store: str | None, entries: Sequence[str], environ: Mapping[str, str]) -> Choice:
    """named: NAME=PATH words; store: --model-store; entries: what --models lists."""
    if entries and store is None:
        raise ConfigError("--models needs --model-store DIR, the directory that they are taken from")
    preload = [word for word in map(str.strip, environ.get(PRELOAD, "").split(",")) if word]
    if not named and store is None:
        return _preloading(preload, _default(environ, needs_any=not preload))
    problems: list[str] = []
    models = [spec for word in named if (spec := _named(word, problems))]
    if store is not None:
        store = os.path.abspath(os.path.expanduser(store))
        if os.path.isdir(store):
            models += _from_store(store, entries, problems)
            models += _from_store(store, preload, problems, PRELOAD)
        else:
            problems.append(f"--model-store {store}: no such directory")
    else:
        models += [spec for word in preload if (spec := _named(word, problems, PRELOAD))]
    return Choice(_distinct(models, problems), store, False, "the command line")


def _preloading(preload: Sequence[str], choice: Choice) -> Choice:
    """The choice with those models as well. There is no store that they could be relative to."""
    problems: list[str] = []
    models = [spec for word in preload if (spec := _named(word, problems, PRELOAD))]
    origin = f"{choice.origin} and {PRELOAD}" if choice.origin else PRELOAD
    return Choice(
        _distinct([*choice.models, *models], problems),
        choice.store,
        choice.sagemaker,
        origin if preload else choice.origin,
    )


def _distinct(models: list[ModelSpec], problems: list[str]) -> tuple[ModelSpec, ...]:
    """The models, whose names must differ. Raises ConfigError with that and all earlier problems."""
    for name, count in Counter(spec.name for spec in models).items():
        if count > 1:
            paths = ", ".join(spec.path for spec in models if spec.name == name)
            problems.append(f"model name {name!r} is given {count} times ({paths}); names must differ")
    if problems:
        raise ConfigError("\n".join(problems))
    return tuple(models)


def check_name(name: str) -> str:
    """*name* itself, when it can name a model; else raises ConfigError."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,255}", name) or name in (".", ".."):
        shown = repr(name if len(name) <= 100 else name[:97] + "...")
        raise ConfigError(f"model name {shown} must be 1 to 255 letters, digits, `.`, `_` or `-`, and not `.` or `..`")
    return name


def _default(environ: Mapping[str, str], needs_any: bool) -> Choice:
    base = environ.get("SAGEMAKER_BASE_DIR") or "/opt/ml"
    try:
        multi_model = units.parse_bool(environ.get("SAGEMAKER_MULTI_MODEL") or "false")
    except ValueError:
        multi_model = False  # settings.load() reports it
    if multi_model:
        return Choice((), "/", True, "SAGEMAKER_MULTI_MODEL")
    directory = os.path.join(base, "model")
    if os.path.isdir(directory):
        return Choice((ModelSpec("model", directory),), None, True, directory)
    if not needs_any:
        return Choice((), None, False, "")
    if not os.path.isdir(BUNDLED):
        raise ConfigError(f"no model was named, and the bundled example is missing from {BUNDLED}; give NAME=PATH")
    return Choice((ModelSpec("digits", BUNDLED),), None, False, "the bundled example, since no model was named")


def _named(word: str, problems: list[str], source: str = "") -> ModelSpec | None:
    name, equals, path = word.partition("=")
    if not equals or not path:
        if source:
            problems.append(f"{source}: {word!r} must be NAME=PATH where there is no --model-store DIR")
        else:
            problems.append(f"model {word!r} must be NAME=PATH, such as digits=./digits")
        return None
    return _spec(name, path if artifact.is_url(path) else os.path.abspath(os.path.expanduser(path)), problems)


def _from_store(store: str, entries: Iterable[str], problems: list[str], source: str = "--models") -> list[ModelSpec]:
    if list(entries) in (["ALL"], ["all"]):
        entries = sorted(
            entry.name
            for entry in os.scandir(store)
            if not entry.name.startswith(".") and (entry.is_dir() or entry.name.lower().endswith(ARCHIVES))
        )
    models = []
    for entry in entries:
        name, equals, file = entry.partition("=")
        file = file if equals else entry
        # An absolute path, or a URL, is the operator's word for another place.
        path = file if artifact.is_url(file) else os.path.normpath(os.path.join(store, file))
        if not file or ".." in file.split("/"):
            problems.append(
                f"{source} {entry}: must be ALL, NAME=FILE or FILE, a file within {store} or an absolute path"
            )
        elif spec := _spec(name if equals else _name_of(path), path, problems):
            models.append(spec)
    return models


def _is_archive(path: str) -> bool:
    import tarfile
    import zipfile

    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def _spec(name: str, path: str, problems: list[str]) -> ModelSpec | None:
    if artifact.is_url(path):
        return ModelSpec(name, path)
    if not os.path.exists(path):
        problems.append(f"model {name}: {path}: no such file or directory")
        return None
    if not (os.path.isdir(path) or _is_archive(path)):
        problems.append(f"model {name}: {path} is neither a directory nor a zip or tar archive")
        return None
    try:
        return ModelSpec(check_name(name), path)
    except ConfigError as error:
        problems.append(f"{error} (for {path})")
        return None


def _name_of(path: str) -> str:
    """The manifest's modelName, else the file's name without its suffix."""
    with contextlib.suppress(ModelError):  # of settings that make no sense the loader will say more
        if name := artifact.look(path).model_name:
            return name
    base = os.path.basename(path)
    suffix = next((s for s in ARCHIVES if base.lower().endswith(s)), "") if not os.path.isdir(path) else ""
    return base[: len(base) - len(suffix)]
