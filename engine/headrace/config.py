"""The settings: one frozen object, read once at start-up and handed to every process.

One field of Config = one variable (HEADRACE_MAX_REQUEST) = one flag (--max-request). The first that is given wins:

    flag  >  HEADRACE_*  >  SAGEMAKER_*  >  file (a properties file of the MMS command line)  >  default

Invariants
1. An unknown HEADRACE_* name or an unreadable value stops start-up. All problems are reported together, each with the
   name, the value and what would be right; nothing falls back silently.
2. A knob's variable, unit, range and help stand in its metadata and nowhere else: flags, checks and the README's table
   are made from it.
3. A default that depends on the machine or on other settings is settled here, so a Config has only plain values.

SageMaker mode is on when one of SAGEMAKER_MARKERS has a value, or when the caller found SageMaker's model directory.
Those are the variables of its hosting contract and of its framework containers; names that notebooks and training jobs
set too are not among them, so that a server tried out in a notebook stays on the loopback address.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace import log, machine, parsers, units
from headrace._memory import HAS_FAULTS
from headrace.errors import ConfigError

PREFIX = "HEADRACE_"
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

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30
_HOUR_MS = 3_600_000
_DEFAULT_MANAGEMENT_PORT = 8081
_SPIN_US = 100
_PAYLOADS = ("max_request_bytes", "max_response_bytes")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model to load at start-up. path: absolute, a directory or an archive; handler: None = found in the model.

    workers, max_workers (None = workers), batch_size, batch_delay_ms, timeout_ms: None = as for any model.
    """

    name: str
    path: str
    handler: str | None = None
    workers: int | None = None
    max_workers: int | None = None
    batch_size: int | None = None
    batch_delay_ms: int | None = None
    timeout_ms: int | None = None


def knob(
    default: Any,
    help: str,
    variable: str,
    kind: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    shown: str = "",
) -> Any:
    """A field with its metadata. kind: a key of PARSERS; low, high: in the field's unit; shown: default in words."""
    metadata = {"help": help, "variable": PREFIX + variable, "kind": kind, "low": low, "high": high}
    return field(default=default, metadata={**metadata, "choices": choices, "shown": shown})


@dataclass(frozen=True, slots=True)
class Config:
    """All settings; see the module for the rules. Built by load(); tests may build their own."""

    host: str = knob(
        "127.0.0.1", "address of the inference port", "HOST", "host", shown="127.0.0.1; 0.0.0.0 in SageMaker mode"
    )
    port: int = knob(8080, "inference port; 0 = any free one", "PORT", "int", 0, 65535)
    management_port: int = knob(
        _DEFAULT_MANAGEMENT_PORT,
        "management port; 0 = any free one; the inference port = one port for both",
        "MANAGEMENT_PORT",
        "int",
        0,
        65535,
        shown="8081; the inference port in SageMaker mode",
    )
    management_host: str = knob(
        "127.0.0.1",
        "address of the management port",
        "MANAGEMENT_HOST",
        "host",
        shown="127.0.0.1; `HEADRACE_HOST` when one port serves both",
    )
    workers: int = knob(
        1, "shared, pinned workers", "WORKERS", "int", 1, 1000, shown="usable cores - frontends, at least 1"
    )
    frontends: int = knob(1, "processes that speak HTTP", "FRONTENDS", "int", 1, 64)
    pin: str = knob("auto", "`auto`, `off`, or CPU lists, one a worker, such as `2-3;4-5`", "PIN", "pin")
    memory_budget_bytes: int = knob(
        _GIB,
        "memory of all processes together: bytes, or `N%` of the container's limit (else of the machine)",
        "MEMORY_BUDGET",
        "budget",
        _MIB,
        shown="80%",
    )
    eviction: str = knob(
        "lru",
        "what to do when a load does not fit: evict the least recently used idle model, or refuse",
        "EVICTION",
        "choice",
        choices=("lru", "none"),
        shown="lru; none in SageMaker multi-model mode",
    )
    min_resident_ms: int = knob(
        1000,
        "time that a loaded model stays before it is evicted, as long as an older one is idle",
        "MIN_RESIDENT",
        "seconds",
        0,
        _HOUR_MS,
    )
    isolation: str = knob(
        "auto",
        "many models in a worker, or a process for each; `auto`: native models share, handlers written for MMS or "
        "SageMaker get their own",
        "ISOLATION",
        "choice",
        choices=("auto", "shared", "process"),
    )
    workers_per_model: int = knob(
        0,
        "replicas of a model for which no number is given; 0 = one a worker for models of the command line, else one, "
        "and further ones as the load demands where it shares workers",
        "WORKERS_PER_MODEL",
        "int",
        0,
        1000,
    )
    replica_idle_ms: int = knob(
        60_000,
        "time without use for one of its replicas after which a model gives one up",
        "REPLICA_IDLE",
        "seconds",
        1,
        24 * _HOUR_MS,
    )
    default_handler: str = knob(
        "",
        "handler, as `module.py:function`, of models that name none",
        "DEFAULT_HANDLER",
        "text",
        shown="none",
    )
    decode_input: bool = knob(
        True,
        "whether MMS handlers get JSON bodies as objects and text bodies as str, rather than all as bytearray",
        "DECODE_INPUT",
        "bool",
        shown="true; false in SageMaker mode",
    )
    initialize_errors: str = knob(
        "refuse",
        "what becomes of an MMS handler whose `initialize` raises: the load is refused, or, as in MMS, it is served, "
        "since it may try again at its first request",
        "INITIALIZE_ERRORS",
        "choice",
        choices=("refuse", "retry"),
    )
    template_imports: tuple[str, ...] = knob(
        ("numpy",),
        "modules, apart by commas, that are imported once, before workers are forked",
        "TEMPLATE_IMPORTS",
        "modules",
    )
    arena_bytes: int = knob(
        256 * _MIB,
        "shared memory for payloads, per frontend, committed only as used",
        "ARENA",
        "size",
        _MIB,
        64 * _GIB,
        shown="256MiB, or twice the largest payload that was set",
    )
    max_request_bytes: int = knob(
        100 * _MIB,
        "largest request body, at most half of the arena; a larger one gets 413",
        "MAX_REQUEST",
        "size",
        _KIB,
        2 * _GIB,
        shown="100MiB, or half of the arena",
    )
    max_response_bytes: int = knob(
        100 * _MIB,
        "largest response body, at most half of the arena; a larger one becomes an error",
        "MAX_RESPONSE",
        "size",
        _KIB,
        2 * _GIB,
        shown="100MiB, or half of the arena",
    )
    compress_min_bytes: int = knob(
        64 * _KIB,
        "smallest JSON, CSV or text answer that is compressed for a client that asks for it; 0 = none is",
        "COMPRESS_MIN",
        "size",
        0,
        2 * _GIB,
    )
    queue: int = knob(1000, "waiting requests per model; past that 503", "QUEUE", "int", 1, 1_000_000)
    queue_total: int = knob(
        10_000,
        "waiting requests of all models together, per frontend; past that 503",
        "QUEUE_TOTAL",
        "int",
        1,
        10_000_000,
    )
    timeout_ms: int = knob(
        60_000,
        "a request's deadline; its `X-Headrace-Timeout-Ms` shortens it",
        "TIMEOUT",
        "seconds",
        1,
        8760 * _HOUR_MS,
    )
    retries: int = knob(1, "redeliveries of a request whose worker died after it had begun it", "RETRIES", "int", 0, 10)
    unload_timeout_ms: int = knob(
        120_000,
        "time that an unloaded model's running requests get; then its worker is ended",
        "UNLOAD_TIMEOUT",
        "seconds",
        1,
        _HOUR_MS,
    )
    max_batch_size: int = knob(
        32, "rows that run together, unless the model says otherwise", "MAX_BATCH_SIZE", "int", 1, 65536
    )
    max_batch_bytes: int = knob(
        64 * _MIB,
        "bytes of request bodies that run together, unless the model says otherwise; a larger one runs alone",
        "MAX_BATCH_BYTES",
        "size",
        1,
        64 * _GIB,
    )
    max_batch_delay_ms: float = knob(
        0.0,
        "longest wait for company, unless the model says otherwise; 0 = take what is there",
        "MAX_BATCH_DELAY",
        "milliseconds",
        0,
        60_000,
    )
    failed_start: str = knob(
        "end",
        "what the server does when its only model cannot be loaded at the start: it ends, or stays up, unhealthy until "
        "the model is registered again",
        "FAILED_START",
        "choice",
        choices=("end", "stay"),
        shown="end; stay under the commands of MMS and TorchServe",
    )
    drain_timeout_ms: int = knob(
        22_000,
        "time after SIGTERM to answer what was accepted; what is left then is answered 503",
        "DRAIN",
        "seconds",
        1,
        _HOUR_MS,
    )
    header_timeout_ms: int = knob(
        10_000, "time for a whole request head, from its first byte", "HEADER_TIMEOUT", "seconds", 1, _HOUR_MS
    )
    body_timeout_ms: int = knob(
        30_000, "time without progress of a request body", "BODY_TIMEOUT", "seconds", 1, _HOUR_MS
    )
    min_rate: int = knob(
        240,  # as ASP.NET Core has it (KestrelServerLimits.MinRequestBodyDataRate)
        "bytes per second that a body must bring, and an unread answer lose, on average over its time-out; 0 = any "
        "progress will do",
        "MIN_RATE",
        "int",
        0,
        1 << 30,
    )
    idle_timeout_ms: int = knob(
        75_000, "time that an idle connection is kept open", "IDLE_TIMEOUT", "seconds", 1, 24 * _HOUR_MS
    )
    write_timeout_ms: int = knob(
        30_000,
        "time without progress of an answer that the client does not read",
        "WRITE_TIMEOUT",
        "seconds",
        1,
        _HOUR_MS,
    )
    max_connections: int = knob(
        10_000,
        "open connections per frontend; new ones past that get 503 and are closed",
        "MAX_CONNECTIONS",
        "int",
        1,
        1_000_000,
    )
    spin_us: int = knob(
        _SPIN_US,
        "longest time that a worker spins before it sleeps, in microseconds; 0 = never spin",
        "SPIN",
        "microseconds",
        0,
        10_000,
        shown="100; 0 with fewer usable cores than processes",
    )
    cors_origin: str = knob(
        "", "origin whose pages may read answers (CORS), or `*`", "CORS_ORIGIN", "field", shown="none"
    )
    cors_methods: str = knob("GET, POST, PUT, OPTIONS", "methods that such pages may use", "CORS_METHODS", "field")
    cors_headers: str = knob("", "header fields that such pages may send", "CORS_HEADERS", "field", shown="none")
    tls_ports: str = knob(
        "none",
        "which ports speak https",
        "TLS",
        "choice",
        choices=("none", "both", "inference", "management"),
    )
    tls_certificate: str = knob(
        "", "PEM file of the server's certificate (chain)", "TLS_CERTIFICATE", "text", shown="none"
    )
    tls_key: str = knob("", "PEM file of its private key, without a password", "TLS_KEY", "text", shown="none")
    max_download_bytes: int = knob(
        5 * _GIB, "largest model archive that is fetched from a URL", "MAX_DOWNLOAD", "size", _KIB, 1024 * _GIB
    )
    download_hosts: tuple[str, ...] = knob(
        (),
        "hosts, apart by commas, that models may be fetched from though their addresses are not public; `*` = any",
        "DOWNLOAD_HOSTS",
        "hosts",
        shown="none",
    )
    token_file: str = knob(
        "",
        "file with a bearer token that the management API asks for; read again at SIGHUP",
        "TOKEN_FILE",
        "text",
        shown="none",
    )
    token_scope: str = knob(
        "management",
        "what asks for the token: the management API; its `changes` only, so that anybody may read it; or `all`, "
        "inference too; `/ping`, `/health` and the console's bare page never do",
        "TOKEN_SCOPE",
        "choice",
        choices=("changes", "management", "all"),
    )
    metrics_models: int = knob(
        100,
        "models that have series of their own in `/metrics`; all others are `other`",
        "METRICS_MODELS",
        "int",
        0,
        1000,
    )
    log_level: str = knob("INFO", "least level that is printed", "LOG_LEVEL", "choice", choices=log.LEVELS)
    log_format: str = knob("text", "form of a log line", "LOG_FORMAT", "choice", choices=log.FORMATS)
    sagemaker: bool = False
    multi_model: bool = False
    models: tuple[ModelSpec, ...] = ()
    model_store: str | None = None
    allowed_urls: tuple[str, ...] = ()  # patterns, of a properties file
    tls_keystore: str = ""  # PKCS #12, of a properties file
    tls_keystore_password: str = field(default="", repr=False)

    @property
    def single_port(self) -> bool:
        """Whether both APIs share one port. Two zeros are two free ports, but one in SageMaker mode."""
        is_one = self.port == self.management_port and (self.port != 0 or self.sagemaker)
        return is_one and self.host == self.management_host

    def asdict(self, with_secrets: bool = False) -> dict[str, Any]:
        """Plain JSON values, for the control channel; with_secrets only for processes that run no models."""
        values = dataclasses.asdict(self)
        if not with_secrets:
            values["tls_keystore_password"] = ""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """The Config that asdict() wrote down. Raises TypeError for a field of another build."""
        return cls(
            **{
                **values,
                "template_imports": tuple(values["template_imports"]),
                "download_hosts": tuple(values["download_hosts"]),
                "allowed_urls": tuple(values["allowed_urls"]),
                "models": tuple(ModelSpec(**model) for model in values["models"]),
            }
        )


KNOBS: dict[str, dataclasses.Field[Any]] = {item.name: item for item in dataclasses.fields(Config) if item.metadata}


@dataclass(frozen=True, slots=True)
class Settings:
    """The Config, and where each field came from: a flag, a variable, a key of the file, or "default"."""

    config: Config
    origin: Mapping[str, str]

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


def show(name: str, value: object) -> str:
    """A field's value as a person would write it in the variable."""
    kind = KNOBS[name].metadata["kind"] if name in KNOBS else ""
    if kind in ("size", "budget") and isinstance(value, int):
        return units.format_size(value)
    if kind in ("seconds", "milliseconds") and isinstance(value, (int, float)):
        return units.format_duration(value)
    if isinstance(value, tuple):
        return ",".join(item.name if isinstance(item, ModelSpec) else str(item) for item in value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def flag(name: str) -> str:
    """The flag of a field: max_request_bytes -> --max-request."""
    return "--" + str(KNOBS[name].metadata["variable"]).removeprefix(PREFIX).lower().replace("_", "-")


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
                self._take(name, flag(name), flags[name])
            elif variable in self.environ:
                self._take(name, variable, self.environ[variable])
            elif aliases:
                self._take(name, aliases[0][0], self.environ[aliases[0][0]], aliases[0][2])
            elif name in file:
                self._take(name, *file[name])
        known = {str(item.metadata["variable"]) for item in KNOBS.values()}
        for name in sorted(self.environ):
            if name.startswith(PREFIX) and name not in known | FOREIGN:
                self.problems.append(f"{name} is no setting; {_suggest(name, known)}")

    def _take(self, name: str, source: str, given: object, parse: Callable[[str], object] | None = None) -> None:
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
            "workers": lambda: len(lists) or max(1, min(1000, cores - values["frontends"])),
            "memory_budget_bytes": lambda: machine.memory_limit_bytes(self.root) * 80 // 100,
            "eviction": lambda: "none" if values["multi_model"] else "lru",
            "arena_bytes": self._default_arena_bytes,
            "max_request_bytes": lambda: min(100 * _MIB, values["arena_bytes"] // 2),
            "max_response_bytes": lambda: min(100 * _MIB, values["arena_bytes"] // 2),
            "spin_us": lambda: _SPIN_US if cores >= values["workers"] + values["frontends"] else 0,
        }
        for name, default in defaults.items():
            if self.is_default(name):
                values[name] = default()

    def _default_management_port(self) -> int:
        port: int = self.values["port"]
        return port if self.values["sagemaker"] or port == 0 else _DEFAULT_MANAGEMENT_PORT

    def _is_one_port(self) -> bool:
        """Two zeros are two ports, but one in SageMaker mode: see Config.single_port."""
        port, sagemaker = self.values["port"], self.values["sagemaker"]
        return bool(port == self.values["management_port"] and (port != 0 or sagemaker))

    def _default_arena_bytes(self) -> int:
        payloads: list[int] = [self.values[name] for name in _PAYLOADS if not self.is_default(name)]
        return max([256 * _MIB, *(2 * payload for payload in payloads)])

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
        accident = port == _DEFAULT_MANAGEMENT_PORT and not self.values["sagemaker"]
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
