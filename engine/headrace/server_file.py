"""What a configuration file of Multi Model Server or of TorchServe says, in our settings.

    file --properties.py--> keys and values --Dialect--> settings of Config, models and store, notes for the log

Invariants
1. Every key that those servers document is either honoured or named in one log line as having no meaning here; a key
   that they do not know is named in a warning, as it may be a typing error.
2. A value that cannot be read stops the start, with its key; all such are reported together.

Sources: "Advanced configuration" of Multi Model Server's and of TorchServe's documentation.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace import properties, units
from headrace.config import ModelSpec
from headrace.errors import ConfigError

FILE_BYTES_MAX = 1 << 20

# Keys that tune a JVM, its network library, or what is not served here.
_MEANINGLESS = (
    "async_logging metric_time_interval netty_client_threads number_of_gpu number_of_netty_threads "
    "plugins_path prefer_direct_buffer preload_model vmargs debug io_ratio model_server_home use_native_io"
)
_MEANINGLESS_IN_TORCHSERVE = (
    "cpp_log_config disable_system_metrics disable_token_authorization enable_grpc_ssl enable_metrics_api "
    "enable_model_api grpc_inference_address grpc_inference_max_connection_age_ms grpc_inference_port "
    "grpc_management_address grpc_management_max_connection_age_ms grpc_management_port initial_worker_port "
    "install_py_dep_per_model limit_max_image_pixels load_models_on_demand metrics_address metrics_config "
    "metrics_format metrics_mode model_config model_snapshot python system_metrics_cmd "
    "use_env_allowed_urls use_new_metrics version workflow_store"
)
_LOG_VARIABLES = ("LOG_LOCATION", "METRICS_LOCATION")  # folders of the originals' log files
_JOINED = re.compile(r"(true|false)([a-z][a-z_]*)=(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Dialect:
    """One of the servers whose place we take.

    marker: the argument by which containers find its process; distribution: its own package; timeout_unit_ms: what
    `default_response_timeout` is counted in; variable: names another file, and beats the flag.
    """

    commands: tuple[str, ...]
    marker: str
    distribution: str
    flag: str
    variable: str
    prefix: str
    timeout_unit_ms: int
    meaningless: frozenset[str]


MMS = Dialect(
    ("multi-model-server", "mxnet-model-server"),
    "com.amazonaws.ml.mms.ModelServer",
    "multi-model-server",
    "--mms-config",
    "MMS_CONFIG_FILE",
    "MMS_",
    60_000,
    frozenset(_MEANINGLESS.split()),
)
TORCHSERVE = Dialect(
    ("torchserve",),
    "org.pytorch.serve.ModelServer",
    "torchserve",
    "--ts-config",
    "TS_CONFIG_FILE",
    "TS_",
    1000,
    frozenset((_MEANINGLESS + " " + _MEANINGLESS_IN_TORCHSERVE).split()),
)

# The file that `--mms-config sagemaker` stands for: what is set of these in the environment.
_SAGEMAKER_FILE = {
    "model_store": "SAGEMAKER_MODEL_STORE",
    "default_response_timeout": "SAGEMAKER_RESPONSE_TIMEOUT",
    "default_workers_per_model": "SAGEMAKER_NUM_MODEL_WORKERS",
    "default_service_handler": "SAGEMAKER_HANDLER",
    "max_response_size": "SAGEMAKER_MAX_RESPONSE_SIZE",
    "max_request_size": "SAGEMAKER_MAX_REQUEST_SIZE",
}


@dataclass(slots=True)
class ServerFile:
    """settings: for settings.load(); models: what `load_models` lists; specs: by model name, of `models={...}`.

    notes: (event, fields) for the log; hidden: regular expression of variables that models are not to see; keystore:
    file of the server's certificate and key, whose password is Java's usual one unless the file says another.
    """

    settings: dict[str, tuple[str, object]] = field(default_factory=dict)
    model_store: str | None = None
    models: list[str] = field(default_factory=list)
    specs: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    hidden: str = ""
    keystore: str = ""
    keystore_password: str = "changeit"
    allowed_urls: tuple[str, ...] = ()

    def complete(self, spec: ModelSpec) -> ModelSpec:
        """*spec* with what `models={...}` says about the model of that name."""
        return ModelSpec(spec.name, spec.path, spec.handler, **self.specs.get(spec.name, {}))


def find(dialect: Dialect, given: str | None, environ: Mapping[str, str]) -> str | None:
    """Path of the file to read, `sagemaker` for the built-in one, None for none. Raises ConfigError.

    The variable, else the flag's value *given*, else config.properties of the current directory when it is there.
    """
    path = environ.get(dialect.variable) or given
    if path is None:
        return "config.properties" if os.path.isfile("config.properties") else None
    if not os.path.isfile(path) and not (path == "sagemaker" and dialect is MMS):
        source = dialect.variable if environ.get(dialect.variable) else dialect.flag
        raise ConfigError(f"{source} {path}: no such file")
    return path


def read(dialect: Dialect, path: str | None, environ: Mapping[str, str]) -> ServerFile:
    """Read the file that find() found. Raises ConfigError with all problems, one a line."""
    if path is None:
        found: dict[str, str] = {}
    elif path == "sagemaker" and not os.path.isfile(path):
        address = f"http://0.0.0.0:{environ.get('SAGEMAKER_BIND_TO_PORT') or 8080}"
        found = {key: environ[variable] for key, variable in _SAGEMAKER_FILE.items() if environ.get(variable)}
        found |= {"inference_address": address, "management_address": address}
    else:
        found = properties.parse(_text_of(path))
    return interpret(dialect, found, environ)


def interpret(dialect: Dialect, found: Mapping[str, str], environ: Mapping[str, str]) -> ServerFile:
    """The meaning of a file's keys and values. Raises ConfigError with all problems, one a line."""
    file = ServerFile()
    found = _unjoined(found, file)
    if found.get("enable_envvars_config", "").lower() == "true":
        names = set(_KEYS) | dialect.meaningless
        found |= {name: environ[text] for name in names if (text := dialect.prefix + name.upper()) in environ}
    found = properties.substitute(found, environ)
    problems: list[str] = []
    for key, value in sorted(found.items(), key=lambda item: item[0] == "default_response_timeout_seconds"):  # it wins
        if key in _KEYS and value:
            try:
                _KEYS[key](file, dialect, key, value)
            except ValueError as error:
                problems.append(f"{key}={value} {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    _settle_tls(file, found)
    ignored = sorted(set(found) & dialect.meaningless)
    unknown = sorted(set(found) - dialect.meaningless - set(_KEYS))
    meant_for_logs = [name for name in _LOG_VARIABLES if environ.get(name)]
    if meant_for_logs:
        file.notes.append(("log_files.without_meaning_here", {"variables": meant_for_logs, "log": "standard error"}))
    if ignored:
        file.notes.append(("config_file.without_meaning_here", {"keys": ignored}))
    if unknown:
        file.notes.append(("config_file.unknown", {"keys": unknown}))
    return file


def _settle_tls(file: ServerFile, found: Mapping[str, str]) -> None:
    """Which ports encrypt: those whose address says https."""
    names = [
        name
        for name in ("inference", "management")
        if found.get(f"{name}_address", "").strip().lower().startswith("https:")
    ]
    if names:
        file.settings["tls_ports"] = (f"{names[0]}_address", "both" if len(names) == 2 else names[0])


def _text_of(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: longer than {FILE_BYTES_MAX} bytes; is it a properties file?")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")  # what Java takes every properties file for


def _unjoined(found: Mapping[str, str], file: ServerFile) -> dict[str, str]:
    """Two settings that share a line, as `enable_model_api=truedefault_response_timeout=60`, apart.

    The PyTorch container's templates lack their last line's end, and more is appended to them.
    """
    apart: dict[str, str] = {}
    for key, value in found.items():
        joined = _JOINED.fullmatch(value)
        if joined and joined[2] in _KEYS:
            file.notes.append(("config_file.joined_line", {"line": f"{key}={value}", "read_as": f"{key}, {joined[2]}"}))
            apart[key] = joined[1]
            apart[joined[2]] = joined[3]
        else:
            apart[key] = value
    return apart


_Take = Callable[[ServerFile, Dialect, str, str], None]


def _setting(name: str, parse: Callable[[str], object]) -> _Take:
    """A key that is one setting of ours."""

    def take(file: ServerFile, dialect: Dialect, key: str, value: str) -> None:
        file.settings[name] = (key, parse(value))

    return take


def _whole(text: str) -> int:
    return units.parse_int(text)


def _address(host: str, port: str) -> _Take:
    """`http://HOST:PORT`, which is two settings."""

    def take(file: ServerFile, dialect: Dialect, key: str, value: str) -> None:
        match = re.fullmatch(
            r"(https?)://(\[[0-9A-Fa-f:.%]+\]|[^:/\s]+)(?::([0-9]{1,5}))?/?", value.strip(), re.IGNORECASE
        )
        if not match:
            raise ValueError("must be http://HOST:PORT or https://HOST:PORT (Unix sockets are not served)")
        is_tls = match[1].lower() == "https"
        file.settings[host] = (key, match[2].strip("[]"))
        file.settings[port] = (key, int(match[3] or (443 if is_tls else 80)))

    return take


def _minutes(file: ServerFile, dialect: Dialect, key: str, value: str) -> None:
    file.settings["timeout_ms"] = (key, _whole(value) * dialect.timeout_unit_ms)


def _seconds(file: ServerFile, dialect: Dialect, key: str, value: str) -> None:
    file.settings["timeout_ms"] = (key, _whole(value) * 1000)


def _store(file: ServerFile, dialect: Dialect, key: str, value: str) -> None:
    file.model_store = value


def _load_models(file: ServerFile, dialect: Dialect, key: str, value: str) -> None:
    if value.lower() != "none":
        file.models = [entry.strip() for entry in value.split(",") if entry.strip()]


def _hidden(file: ServerFile, dialect: Dialect, key: str, value: str) -> None:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"must be a regular expression: {error}") from None
    file.hidden = value


def _models(file: ServerFile, dialect: Dialect, key: str, value: str) -> None:
    """TorchServe's `models={NAME: {VERSION: {...}}}`; of several versions the default one."""
    try:
        document = json.loads(value)
        for name, versions in document.items():
            entries = list(versions.values())
            entry = next((entry for entry in entries if entry.get("defaultVersion") is True), entries[0])
            file.specs[name] = {
                field: int(entry[word]) * scale for word, field, scale in _MODEL_WORDS if entry.get(word) is not None
            }
    except (ValueError, AttributeError, IndexError, TypeError, RecursionError):
        raise ValueError(
            'must be a JSON object {"NAME": {"VERSION": {"minWorkers": 1, "batchSize": 4, ...}}} with whole numbers'
        ) from None


# (TorchServe's word, field of ModelSpec, factor); response times are in seconds there.
_MODEL_WORDS = (
    ("minWorkers", "workers", 1),
    ("maxWorkers", "max_workers", 1),
    ("batchSize", "batch_size", 1),
    ("maxBatchDelay", "batch_delay_ms", 1),
    ("responseTimeout", "timeout_ms", 1000),
)


def _keystore(file: ServerFile, dialect: Dialect, key: str, value: str) -> None:
    file.keystore = value


def _keystore_password(file: ServerFile, dialect: Dialect, key: str, value: str) -> None:
    file.keystore_password = value


def _allowed_urls(file: ServerFile, dialect: Dialect, key: str, value: str) -> None:
    patterns = tuple(pattern.strip() for pattern in value.split(",") if pattern.strip())
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"must be regular expressions apart by commas: {error} in {pattern!r}") from None
    file.allowed_urls = patterns


def _nothing(file: ServerFile, dialect: Dialect, key: str, value: str) -> None:
    """Acted on where it is read."""


_KEYS: dict[str, _Take] = {
    "allowed_urls": _allowed_urls,
    "blacklist_env_vars": _hidden,
    "certificate_file": _setting("tls_certificate", str),
    "cors_allowed_headers": _setting("cors_headers", str),
    "cors_allowed_methods": _setting("cors_methods", str),
    "cors_allowed_origin": _setting("cors_origin", str),
    "decode_input_request": _setting("decode_input", lambda text: text.lower() == "true"),
    "default_response_timeout": _minutes,
    "default_response_timeout_seconds": _seconds,
    "default_service_handler": _setting("default_handler", str),
    "default_workers_per_model": _setting("workers_per_model", _whole),
    "enable_envvars_config": _nothing,
    "inference_address": _address("host", "port"),
    "job_queue_size": _setting("queue", _whole),
    "keystore": _keystore,
    "keystore_pass": _keystore_password,
    "keystore_type": _nothing,
    "load_models": _load_models,
    "management_address": _address("management_host", "management_port"),
    "max_request_size": _setting("max_request_bytes", units.parse_size),
    "max_response_size": _setting("max_response_bytes", units.parse_size),
    "model_store": _store,
    "models": _models,
    "private_key_file": _setting("tls_key", str),
    "unregister_model_timeout": _setting("unload_timeout_ms", lambda text: _whole(text) * 1000),
}
