"""How the text of a setting becomes its value: a parser for each kind of knob, and SageMaker's names for our settings.

Every parser raises ValueError that says what would be right; settings.py adds the setting's name and the value.
"""

import re
import socket
from collections.abc import Callable

from headrace import machine, units


def parse_host(root: str, text: str) -> str:
    text = text.strip()
    is_name = re.fullmatch(r"[A-Za-z0-9._-]{1,253}", text) is not None
    if not is_name:
        try:
            socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
        except (OSError, ValueError):
            raise ValueError("must be an IP address or a host name, without scheme, port or brackets") from None
    return text


def parse_pin(root: str, text: str) -> str:
    text = text.strip()
    if text.lower() in ("auto", "off"):
        return text.lower()
    try:
        machine.parse_cpu_lists(text)
    except ValueError as error:
        raise ValueError(f"must be auto, off, or CPU lists, one a worker, such as 2-3;4-5: {error}") from None
    return text


def parse_budget(root: str, text: str) -> int:
    percent = re.fullmatch(r"\s*([0-9]{1,3}(?:\.[0-9]{1,3})?)\s*%\s*", text)
    try:
        if percent and 0 < float(percent[1]) <= 100:
            return int(machine.memory_limit_bytes(root) * float(percent[1]) / 100)
        return units.parse_size(text)
    except ValueError as error:
        raise ValueError(f"{error}; or a share of the memory from 1% to 100%") from None


def parse_share(root: str, text: str) -> float:
    """A share of all, 0 to 1."""
    words = {"off": 0.0, "false": 0.0, "no": 0.0, "on": 1.0, "true": 1.0, "yes": 1.0}
    if (word := words.get(text.strip().lower())) is not None:
        return word
    number = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(%?)", text.strip())
    share = float(number[1]) / (100 if number[2] else 1) if number else -1.0
    if not 0 <= share <= 1:
        raise ValueError("must be off, on, or a share of all: a percentage such as 1%, or a number from 0 to 1")
    return share


def parse_modules(root: str, text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"must be module names apart by commas, such as numpy,torch; {name!r} is none")
    return tuple(dict.fromkeys(names))


def parse_hosts(root: str, text: str) -> tuple[str, ...]:
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    return tuple(dict.fromkeys(name if name == "*" else parse_host(root, name) for name in names))


def parse_field(root: str, text: str) -> str:
    """The value of a header field."""
    if len(text) > 512 or not text.isascii() or not text.isprintable():
        raise ValueError("must be at most 512 printable ASCII characters")
    return text.strip()


# Each takes (root, text).
PARSERS: dict[str, Callable[[str, str], object]] = {
    "host": parse_host,
    "int": lambda root, text: units.parse_int(text),
    "size": lambda root, text: units.parse_size(text),
    "budget": parse_budget,
    "seconds": lambda root, text: round(units.parse_duration_ms(text, "s")),
    "milliseconds": lambda root, text: units.parse_duration_ms(text, "ms"),
    "microseconds": lambda root, text: round(units.parse_duration_ms(text, "us") * 1000),
    "choice": lambda root, text: text.strip(),
    "bool": lambda root, text: units.parse_bool(text),
    "text": lambda root, text: text.strip(),
    "share": parse_share,
    "modules": parse_modules,
    "hosts": parse_hosts,
    "models": lambda root, text: tuple(word for word in map(str.strip, text.split(",")) if word),
    "field": parse_field,
    "pin": parse_pin,
}


def parse_log_level(text: str) -> str:
    """A number as in `logging` (20 = INFO), or a name."""
    if not text.strip().isdecimal():
        return text.strip()
    number = units.parse_int(text)
    return "DEBUG" if number < 20 else "INFO" if number < 30 else "WARNING" if number < 40 else "ERROR"


# (variable, field, parse): SageMaker's names for our settings; of two for one field the first wins. An empty value is
# none. SageMaker's toolkit hands SAGEMAKER_MODEL_SERVER_TIMEOUT on to MMS, which takes the number for minutes; so do
# we, since a container that was tuned against that must not see its requests cut short. With _SECONDS it is in seconds.
ALIASES: tuple[tuple[str, str, Callable[[str], object]], ...] = (
    ("SAGEMAKER_BIND_TO_PORT", "port", units.parse_int),
    ("SAGEMAKER_MODEL_SERVER_WORKERS", "workers", units.parse_int),
    ("SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS", "timeout_ms", lambda text: units.parse_int(text) * 1000),
    ("SAGEMAKER_MODEL_SERVER_TIMEOUT", "timeout_ms", lambda text: units.parse_int(text) * 60_000),
    ("SAGEMAKER_MAX_PAYLOAD_IN_MB", "max_request_bytes", lambda text: units.parse_int(text) * (1 << 20)),
    ("SAGEMAKER_HANDLER", "default_handler", str.strip),
    ("SAGEMAKER_CONTAINER_LOG_LEVEL", "log_level", parse_log_level),
)


def choose(text: str, choices: tuple[str, ...]) -> str:
    for choice in choices:
        if text.lower() == choice.lower():
            return choice
    raise ValueError(f"must be one of {', '.join(choices)}")
