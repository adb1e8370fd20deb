"""The settings that there are: one frozen object, read once at start-up (settings.py) and handed to every process.

One field of Config = one variable (HEADRACE_MAX_REQUEST) = one flag (--max-request).

A knob's variable, unit, range and help stand in its metadata and nowhere else: flags, checks and the README's table are
made from it.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace import log, units

PREFIX = "HEADRACE_"

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30
_HOUR_MS = 3_600_000
DEFAULT_MANAGEMENT_PORT = 8081
SPIN_US = 100


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
    """A field with its metadata. kind: of parsers.PARSERS; low, high: in the field's unit; shown: default in words."""
    metadata = {"help": help, "variable": PREFIX + variable, "kind": kind, "low": low, "high": high}
    return field(default=default, metadata={**metadata, "choices": choices, "shown": shown})


@dataclass(frozen=True, slots=True)
class Config:
    """All settings. Built by settings.load(); tests may build their own."""

    host: str = knob(
        "127.0.0.1", "address of the inference port", "HOST", "host", shown="127.0.0.1; 0.0.0.0 in SageMaker mode"
    )
    port: int = knob(8080, "inference port; 0 = any free one", "PORT", "int", 0, 65535)
    management_port: int = knob(
        DEFAULT_MANAGEMENT_PORT,
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
    preload: tuple[str, ...] = knob(
        (),
        "models, apart by commas, that are loaded before the server says that it is ready: `NAME=PATH`, or, of the "
        "model store, `NAME=FILE`, `FILE` or `ALL`",
        "PRELOAD",
        "models",
        shown="none",
    )
    loads: int = knob(
        2,
        "loads at once, besides those that are known to take a few milliseconds; the others wait for their turn",
        "LOADS",
        "int",
        1,
        1000,
        shown="half of the usable cores, at least 2",
    )
    extra_workers: int = knob(
        8,
        "shared workers beyond `HEADRACE_WORKERS` that there may be for models whose load would hold up others; "
        "0 = all are loaded where others are served",
        "EXTRA_WORKERS",
        "int",
        0,
        500,
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
        SPIN_US,
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
    access_log: float = knob(
        0.0,
        "whether requests are logged, a line each: `off`, `on`, or the share that is, such as `1%`; answers of 500 and "
        "more always are where it is not off, health checks never",
        "ACCESS_LOG",
        "share",
        0,
        1,
    )
    log_level: str = knob("INFO", "least level that is printed", "LOG_LEVEL", "choice", choices=log.LEVELS)
    log_format: str = knob("text", "form of a log line", "LOG_FORMAT", "choice", choices=log.FORMATS)
    output_lines: int = knob(
        100,
        "lines a second that a model may print or log; further ones are counted and dropped",
        "OUTPUT_LINES",
        "int",
        0,
        1_000_000,
    )
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

    def adopt(self, values: Mapping[str, Any]) -> None:
        """Change these fields in place: whoever holds the object sees it. Nobody else writes to it. They are changeable
        ones, checked (settings.changes), and each process that has a copy is told (running_settings.py)."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """The Config that asdict() wrote down. Raises TypeError for a field of another build."""
        return cls(
            **{
                **values,
                "template_imports": tuple(values["template_imports"]),
                "download_hosts": tuple(values["download_hosts"]),
                "preload": tuple(values["preload"]),
                "allowed_urls": tuple(values["allowed_urls"]),
                "models": tuple(ModelSpec(**model) for model in values["models"]),
            }
        )


KNOBS: dict[str, dataclasses.Field[Any]] = {item.name: item for item in dataclasses.fields(Config) if item.metadata}


def show(name: str, value: object) -> str:
    """A field's value as a person would write it in the variable."""
    kind = KNOBS[name].metadata["kind"] if name in KNOBS else ""
    if kind in ("size", "budget") and isinstance(value, int):
        return units.format_size(value)
    if kind in ("seconds", "milliseconds") and isinstance(value, (int, float)):
        return units.format_duration(value)
    if kind == "share" and isinstance(value, (int, float)):
        return "off" if value == 0 else "on" if value == 1 else f"{100 * value:.6g}%"
    if isinstance(value, tuple):
        return ",".join(item.name if isinstance(item, ModelSpec) else str(item) for item in value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def short(name: str) -> str:
    """A field's name without ceremony, as files and the API have it: max_request_bytes -> max_request."""
    return str(KNOBS[name].metadata["variable"]).removeprefix(PREFIX).lower()


def flag(name: str) -> str:
    """The flag of a field: max_request_bytes -> --max-request."""
    return "--" + short(name).replace("_", "-")
