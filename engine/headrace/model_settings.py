"""What a native model says about itself: attributes of its class, overridden by a `headrace.toml` in its directory."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.errors import ModelError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SETTINGS_FILE = "headrace.toml"


_RIVALS = ("target_latency_ms", "max_batch_delay_ms")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The attributes of headrace.Model as they hold for one model directory."""

    max_batch_size: int | None
    max_batch_bytes: int | None
    max_batch_delay_ms: float | None
    target_latency_ms: float | None
    dtype: Any
    shape: tuple[int, ...] | None
    isolation: str | None
    replicas: tuple[int, int] | None  # least, most
    retry_members: bool
    pinned: bool
    warm_up_request: dict[str, Any] | None = None  # see warm_up.py

    @classmethod
    def of(cls, model: type, directory: Path) -> "ModelSettings":
        """Attributes of the class, overridden by the directory's file. ModelError names key and place of a bad one."""
        place = f"class {model.__qualname__}"
        found = {key: _checked(key, getattr(model, key), place, key == "dtype") for key in _CHECKS}
        _check_together(found, place)
        file = read_settings(directory)
        for key, other in (_RIVALS, _RIVALS[::-1]):
            if key in file:
                found[other] = None  # the file's choice replaces the class's
        return cls(**{**found, **file})


def read_settings(directory: Path) -> dict[str, Any]:
    """What the directory's `headrace.toml` sets; {} without one. ModelError for a key or value that makes no sense.

    Runs no code of the model, so that placement can ask before a worker is chosen.
    """
    path = directory / SETTINGS_FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    return parse_settings(text, str(path))


def parse_settings(text: bytes, place: str) -> dict[str, Any]:
    """What a `headrace.toml` of this text sets. ModelError, which names *place*, as for read_settings()."""
    try:
        document = tomllib.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ModelError(f"{place} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ModelError(f"{place} is not TOML: {error}") from None
    for key in document:
        if key not in _CHECKS:
            raise ModelError(f"{place}: unknown key {key!r}; the keys are {', '.join(_CHECKS)}")
    found = {key: _checked(key, value, place, False) for key, value in document.items()}
    _check_together(found, place)
    return found


def _check_together(found: dict[str, Any], place: str) -> None:
    target, delay = (found.get(key) for key in _RIVALS)
    if target is not None and delay is not None:
        raise ModelError(
            f"{place}: target_latency_ms = {target!r} and max_batch_delay_ms = {delay!r} exclude each other; "
            "keep the target, which chooses the wait, or the fixed delay"
        )
    if target is not None and found.get("max_batch_size") == 1:
        raise ModelError(
            f"{place}: target_latency_ms = {target!r} chooses batch sizes, which max_batch_size = 1 rules out; "
            "set max_batch_size to 2 or more, or leave one of them out"
        )


def _checked(key: str, value: Any, place: str, any_dtype: bool) -> Any:
    wanted, is_right = _CHECKS[key]
    if value is None and key not in ("dtype", "retry_members", "pinned"):
        return None
    if not any_dtype and not is_right(value):
        raise ModelError(f"{place}: {key} = {value!r} is wrong; it must be {wanted}")
    if key == "replicas":
        return (value, value) if isinstance(value, int) else tuple(value)
    return tuple(value) if key == "shape" else value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_range(value: Any) -> bool:
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_count, value))
    return is_pair and bool(value[0] <= value[1])


def _is_delay(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 60_000


def _is_latency(value: Any) -> bool:
    return _is_delay(value) and value > 0


def _is_warm_up(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) <= {"body", "file", "content_type", "times"}
        and ("body" in value) != ("file" in value)
        and all(isinstance(value[key], str) for key in ("body", "file", "content_type") if key in value)
        and _is_count(value.get("times", 1))
    )


def _is_shape(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(_is_count(side) for side in value)


_CHECKS: dict[str, tuple[str, Any]] = {
    "max_batch_size": ("an integer from 1 up", _is_count),
    "max_batch_bytes": ("an integer from 1 up, in bytes", _is_count),
    "max_batch_delay_ms": ("a number from 0 to 60000", _is_delay),
    "target_latency_ms": ("a number above 0, up to 60000", _is_latency),
    "dtype": ("the name of a numpy type, such as 'float32'", lambda value: isinstance(value, str)),
    "shape": ("a list of integers from 1 up, such as [64]", _is_shape),
    "isolation": ("'shared' or 'process'", lambda value: value in ("shared", "process")),
    "replicas": (
        "an integer from 1 up, or [least, most] such as [1, 4]",
        lambda value: _is_count(value) or _is_range(value),
    ),
    "pinned": ("true or false", lambda value: isinstance(value, bool)),
    "retry_members": ("true or false", lambda value: isinstance(value, bool)),
    "warm_up_request": (
        "a table with either `body`, a text, or `file`, a name in the model's directory, and, if need be, "
        "`content_type` and `times`",
        _is_warm_up,
    ),
}
