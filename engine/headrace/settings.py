"""Where the settings come from, and whether they can be. The first that is given wins:

    flag  >  HEADRACE_*  >  SAGEMAKER_*  >  file (--settings, or that of the MMS commands)  >  default

Invariants
1. An unknown HEADRACE_* name or an unreadable value stops start-up. All problems are reported together, each with the
   name, the value and what would be right; nothing falls back silently.
2. A default that depends on the machine or on other settings is settled here, so a Config has only plain values.

SageMaker mode is on when one of SAGEMAKER_MARKERS has a value, or when the caller found SageMaker's model directory.
Those are the variables of its hosting contract and of its framework containers; names that notebooks and training jobs
set too are not among them, so that a server tried out in a notebook stays on the loopback address.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headrace import machine, parsers, units
from headrace._memory import HAS_FAULTS
from headrace.config import (
    DEFAULT_MANAGEMENT_PORT,
    KNOBS,
    PREFIX,
    SPIN_US,
    Config,
    ModelSpec,
    flag,
    short,
    show,
)
from headrace.errors import ConfigError

# No settings of the server: setup.py's, client.py's, ext/fault.h's.
FOREIGN = frozenset({"HEADRACE_BUILD", "HEADRACE_URL"} | ({"HEADRACE_FAULT"} if HAS_FAULTS else set()))
SAGEMAKER_MARKERS = (
    "SAGEMAKER_MULTI_MODEL",
    "SAGEMAKER_BIND_TO_PORT",
    "SAGEMAKER_SAFE_PORT_RANGE",
    "SAGEMAKER_PROGRAM",
    "SAGEMAKER_SUBMIT_DIRECTORY",
    "SAGEMAKER_HANDLER",
    "SAGEMAKER_MODEL_SERVER_WORKERS",
    "SAGEMAKER_MODEL_SERVER_TIMEOUT",
    "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS",
    "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT",
    "SAGEMAKER_MAX_PAYLOAD_IN_MB",
)
#: What can change while the server runs. Whatever is not here is read once.
CHANGEABLE = frozenset(
    {
        "workers",
        "memory_budget_bytes",
        "eviction",
        "min_resident_ms",
        "workers_per_model",
        "replica_idle_ms",
        "queue",
        "queue_total",
        "timeout_ms",
        "retries",
        "unload_timeout_ms",
        "max_batch_size",
        "max_batch_bytes",
        "max_batch_delay_ms",
        "drain_timeout_ms",
        "header_timeout_ms",
        "body_timeout_ms",
        "min_rate",
        "idle_timeout_ms",
        "write_timeout_ms",
        "max_connections",
        "log_level",
        "access_log",
        "output_lines",
    }
)
_PAYLOADS = ("max_request_bytes", "max_response_bytes")
_PAYLOAD_BYTES = 100 << 20
_ARENA_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """The Config, and where each field came from: a flag, a variable, a key of the file, or "default"."""

    config: Config
    origin: Mapping[str, str]
    again: Callable[[], "Settings"] | None = None  # reads the same sources once more; None: there is nothing to read

    def log_fields(self) -> dict[str, str]:
        """Every setting as text, for the start-up log; what is no default names its origin."""
        shown = {}
        for name in self.origin:
            text, origin = show(name, getattr(self.config, name)), self.origin[name]
            shown[name] = text if origin == "default" else f"{text} (from {origin})"
        return shown


def load(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    file: Mapping[str, tuple[str, object]] | None = None,
    models: tuple[ModelSpec, ...] = (),
    model_store: str | None = None,
    sagemaker: bool = False,
    keystore: tuple[str, str] = ("", ""),
    allowed_urls: tuple[str, ...] = (),
    origin: Mapping[str, str] | None = None,
    root: str = "/",
) -> Settings:
    """Read the settings.

    flags:     field name -> text as typed, or a ready value in the field's own unit.
    environ:   the environment, by default the process's.
    file:      field name -> (key in the file, text or ready value).
    sagemaker: forces SageMaker mode, where the caller found its model directory.
    allowed_urls: patterns of which one must match a URL that a model is fetched from; none for all.
    keystore:  file and password of the server's certificate and key, where they are in one.
    origin:    where `models`, `model_store` and `sagemaker` came from, for the log.
    root:      stands for / when the machine's limits are read.
    Raises ConfigError with all problems, one a line.
    """
    environ = os.environ if environ is None else environ
    reading = _Reading(environ, root)
    reading.read(flags or {}, file or {})
    marker = next((name for name in SAGEMAKER_MARKERS if environ.get(name)), None)
    reading.derive("sagemaker", sagemaker or marker is not None, marker)
    multi_model = reading.boolean("SAGEMAKER_MULTI_MODEL")
    reading.derive("multi_model", multi_model, "SAGEMAKER_MULTI_MODEL" if multi_model else None)
    reading.derive("models", models)
    reading.derive("model_store", model_store)
    reading.settle_defaults()
    reading.check_together()
    if reading.problems:
        raise ConfigError("\n".join(reading.problems))
    reading.values["allowed_urls"] = allowed_urls
    reading.values["tls_keystore"], reading.values["tls_keystore_password"] = keystore
    return Settings(Config(**reading.values), {**reading.origin, **(origin or {})})


def changeable(config: Config) -> dict[str, Any]:
    """The values that may have changed since a process was given its copy."""
    return {name: getattr(config, name) for name in CHANGEABLE}


def changes(config: Config, origin: Mapping[str, str], given: Mapping[str, object], root: str = "/") -> dict[str, Any]:
    """The fields of *config* that these words and values ask for, whether or not they differ from what it has.

    given: name as short() has it, or the variable's -> text as in the variable, a number in the setting's own unit, or
    a boolean. Raises ConfigError with all problems: names that are none, settings that cannot change while the server
    runs, values that cannot be read, and those that contradict other settings.
    """
    reading = _Reading({}, root)
    reading.values = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    reading.origin = {name: origin.get(name, "default") for name in reading.values}
    names: dict[str, str] = {}
    for word, value in given.items():
        name = field_of(word)
        if name is None:
            reading.problems.append(f"{_excerpt(word)} is no setting; {suggest(word)}")
        elif name not in CHANGEABLE:
            reading.problems.append(f"{short(name)} cannot change while the server runs; set it and start it anew")
        elif name in names:
            reading.problems.append(f"{short(name)} is given twice, as {names[name]} and as {word}")
        elif isinstance(value, (str, int, float)):
            names[name] = word
            reading.take(name, word, str(value).lower() if isinstance(value, bool) else str(value))
        else:
            reading.problems.append(f"{word} must be a text or a number, as in {KNOBS[name].metadata['variable']}")
    reading.check_together()
    if reading.problems:
        raise ConfigError("\n".join(reading.problems))
    return {name: reading.values[name] for name in names}


def field_of(word: str) -> str | None:
    """The field that a name of a file or of the API means; None for none."""
    plain = word.upper().replace("-", "_").removeprefix(PREFIX)
    return next((name for name, item in KNOBS.items() if item.metadata["variable"] == PREFIX + plain), None)


def suggest(word: str) -> str:
    """What may have been meant by a name that is none."""
    import difflib  # as in _suggest()

    close = difflib.get_close_matches(word.lower().replace("-", "_"), map(short, KNOBS), n=1)
    return f"did you mean {close[0]}?" if close else "`headrace settings` lists them"


class _Reading:
    """Values, their origins and the problems met so far."""

    def __init__(self, environ: Mapping[str, str], root: str) -> None:
        self.environ = environ
        self.root = root
        self.values: dict[str, Any] = {}
        self.origin: dict[str, str] = {}
        self.problems: list[str] = []
        self.broken: set[str] = set()  # fields given but unreadable; their values are still the defaults

    def read(self, flags: Mapping[str, object], file: Mapping[str, tuple[str, object]]) -> None:
        unknown = (set(flags) | set(file)) - set(KNOBS)
        if unknown:
            raise TypeError(f"no such setting: {', '.join(sorted(unknown))}")
        for name, item in KNOBS.items():
            self.values[name], self.origin[name] = item.default, "default"
            variable = item.metadata["variable"]
            aliases = [alias for alias in parsers.ALIASES if alias[1] == name and self.environ.get(alias[0])]
            if name in flags:
                self.take(name, flag(name), flags[name])
            elif variable in self.environ:
                self.take(name, variable, self.environ[variable])
            elif aliases:
                self.take(name, aliases[0][0], self.environ[aliases[0][0]], aliases[0][2])
            elif name in file:
                self.take(name, *file[name])
        known = {str(item.metadata["variable"]) for item in KNOBS.values()}
        for name in sorted(self.environ):
            if name.startswith(PREFIX) and name not in known | FOREIGN:
                self.problems.append(f"{name} is no setting; {_suggest(name, known)}")

    def take(self, name: str, source: str, given: object, parse: Callable[[str], object] | None = None) -> None:
        meta = KNOBS[name].metadata
        try:
            value = given
            if isinstance(given, str):
                value = (parse or functools.partial(parsers.PARSERS[meta["kind"]], self.root))(given)
            low, high = meta["low"], meta["high"]
            if isinstance(value, (int, float)) and (
                (low is not None and value < low) or (high is not None and value > high)
            ):
                top = "" if high is None else f" to {show(name, high)}"
                raise ValueError(f"must be {f'from {show(name, low)}{top}' if top else f'at least {show(name, low)}'}")
            if meta["choices"]:
                value = parsers.choose(str(value), meta["choices"])
        except ValueError as error:
            self.problems.append(f"{source}={_excerpt(given)} {error}{_service_link_hint(source, given)}")
            self.broken.add(name)
        else:
            self.values[name], self.origin[name] = value, source

    def boolean(self, variable: str) -> bool:
        try:
            return units.parse_bool(self.environ.get(variable) or "false")
        except ValueError as error:
            self.problems.append(f"{variable}={_excerpt(self.environ[variable])} {error}")
            return False

    def derive(self, name: str, value: object, source: str | None = None) -> None:
        self.values[name], self.origin[name] = value, source or "default"

    def is_default(self, name: str) -> bool:
        return self.origin[name] == "default"

    def settle_defaults(self) -> None:
        """Defaults that depend on the machine and on other settings; none of them touches a value that was given."""
        values = self.values
        lists = _pin_lists(values["pin"])
        cores = machine.usable_cores(self.root)
        defaults: dict[str, Callable[[], object]] = {
            "host": lambda: "0.0.0.0" if values["sagemaker"] else "127.0.0.1",
            "decode_input": lambda: not values["sagemaker"],
            "management_port": self._default_management_port,
            "management_host": lambda: values["host"] if self._is_one_port() else "127.0.0.1",
            "loads": lambda: max(2, min(1000, cores // 2)),
            "workers": lambda: len(lists) or max(1, min(1000, cores - values["frontends"])),
            "memory_budget_bytes": lambda: machine.memory_limit_bytes(self.root) * 80 // 100,
            "eviction": lambda: "none" if values["multi_model"] else "lru",
            "arena_bytes": self._default_arena_bytes,
            "max_request_bytes": lambda: min(_PAYLOAD_BYTES, values["arena_bytes"] // 2),
            "max_response_bytes": lambda: min(_PAYLOAD_BYTES, values["arena_bytes"] // 2),
            "spin_us": lambda: SPIN_US if cores >= values["workers"] + values["frontends"] else 0,
        }
        for name, default in defaults.items():
            if self.is_default(name):
                values[name] = default()

    def _default_management_port(self) -> int:
        port: int = self.values["port"]
        return port if self.values["sagemaker"] or port == 0 else DEFAULT_MANAGEMENT_PORT

    def _is_one_port(self) -> bool:
        """Two zeros are two ports, but one in SageMaker mode: see Config.single_port."""
        port, sagemaker = self.values["port"], self.values["sagemaker"]
        return bool(port == self.values["management_port"] and (port != 0 or sagemaker))

    def _default_arena_bytes(self) -> int:
        payloads: list[int] = [self.values[name] for name in _PAYLOADS if not self.is_default(name)]
        return max([_ARENA_BYTES, *(2 * payload for payload in payloads)])

    def check_together(self) -> None:
        """Settings that contradict each other. A setting that could not be read contradicts nothing."""
        for name in _PAYLOADS:
            if self.broken.isdisjoint((name, "arena_bytes")):
                self._check_payload(name)
        if self.broken.isdisjoint(("port", "management_port")):
            self._check_ports()
        if self.broken.isdisjoint(("pin", "workers")):
            self._check_pin()

    def _check_payload(self, name: str) -> None:
        payload, arena = self.values[name], self.values["arena_bytes"]
        if payload > arena // 2:
            self.problems.append(
                f"{self._given(name)} does not fit into half of {self._given('arena_bytes')}; raise the arena to "
                f"{units.format_size(2 * payload)} or lower the limit to {units.format_size(arena // 2)}"
            )

    def _check_ports(self) -> None:
        port = self.values["port"]
        self._check_port_range()
        accident = port == DEFAULT_MANAGEMENT_PORT and not self.values["sagemaker"]
        if accident and self.is_default("management_port"):  # it would show the management API to every client
            self.problems.append(
                f"{self._given('port')} is the default management port; set HEADRACE_MANAGEMENT_PORT to another port, "
                f"or to {port} to have both APIs on one port"
            )

    def _check_port_range(self) -> None:
        """SageMaker's inference pipelines: what is not on the port of the requests must lie in a range."""
        text, port = self.environ.get("SAGEMAKER_SAFE_PORT_RANGE"), self.values["management_port"]
        if not text:
            return
        found = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", text.strip())
        if not found or int(found[1]) > int(found[2]):
            self.problems.append(f"SAGEMAKER_SAFE_PORT_RANGE={_excerpt(text)} must be FIRST-LAST, such as 10000-10999")
        elif port not in (0, self.values["port"]) and not int(found[1]) <= port <= int(found[2]):
            self.problems.append(f"{self._given('management_port')} is not in SAGEMAKER_SAFE_PORT_RANGE={text}")

    def _check_pin(self) -> None:
        lists, usable = _pin_lists(self.values["pin"]), machine.usable_cpus()
        if lists and len(lists) != self.values["workers"]:
            self.problems.append(
                f"{self._given('pin')} has {len(lists)} CPU lists, but {self._given('workers')}; give one list a worker"
            )
        missing = sorted({cpu for cpus in lists for cpu in cpus} - set(usable))
        if missing:
            self.problems.append(
                f"{self._given('pin')} names CPUs that this process may not use: {_join(missing)}; "
                f"usable: {_join(usable)}"
            )

    def _given(self, name: str) -> str:
        """`NAME=value` under the name that it was given by."""
        source = KNOBS[name].metadata["variable"] if self.is_default(name) else self.origin[name]
        return f"{source}={show(name, self.values[name])}"


def _pin_lists(pin: str) -> tuple[tuple[int, ...], ...]:
    return () if pin in ("auto", "off") else machine.parse_cpu_lists(pin)


def _suggest(name: str, known: set[str]) -> str:
    import difflib  # here, since every process imports this module and only one that refuses to start needs it

    close = difflib.get_close_matches(name.removeprefix(PREFIX), [other.removeprefix(PREFIX) for other in known], n=1)
    hint = f"did you mean {PREFIX}{close[0]}?" if close else "the known ones are listed by `headrace serve --help`"
    return hint + _service_link_hint(name, "")


def _service_link_hint(name: str, value: object) -> str:
    """Kubernetes describes a service called `headrace` to every pod of its namespace, in names that look like ours."""
    is_link = re.match(r"HEADRACE_(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP))", name) or str(value).startswith("tcp://")
    return " (looks like a Kubernetes service link: set enableServiceLinks: false on the pod)" if is_link else ""


def _excerpt(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _join(numbers: tuple[int, ...] | list[int]) -> str:
    return ",".join(map(str, numbers))
