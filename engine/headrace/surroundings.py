"""What is fixed about a frontend's answers while it lives: fields of every answer, CORS, /execution-parameters, TLS.

Sources: Fetch standard, "CORS protocol"; Amazon SageMaker, "Use your own inference code with batch transform".
"""

import ssl

import orjson

from headrace import keystore, media
from headrace.config import Config

# As Multi Model Server has it: no cache may keep an answer.
CACHE_FIELDS = (
    b"pragma: no-cache\r\n"
    b"cache-control: no-cache; no-store, must-revalidate, private\r\n"
    b"expires: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
)
_TRANSFORM_MIB = 100  # MaxConcurrentTransforms x MaxPayloadInMB may not be more


def origin_fields(config: Config) -> bytes:
    """Field lines that let pages of another origin read every answer; empty unless an origin is configured."""
    if not config.cors_origin:
        return b""
    vary = b"" if config.cors_origin == "*" else b"vary: origin\r\n"
    return media.field_line("access-control-allow-origin", config.cors_origin) + vary


def preflight_fields(config: Config) -> bytes | None:
    """Field lines that answer a preflight request; None where there is no other origin to ask."""
    if not config.cors_origin:
        return None
    allowed = (("methods", config.cors_methods), ("headers", config.cors_headers))
    return b"".join(media.field_line(f"access-control-allow-{what}", text) for what, text in allowed if text)


def execution_parameters(config: Config) -> bytes:
    """The JSON body of /execution-parameters: how batch transform should send, with payloads in MiB."""
    concurrent = min(config.workers, _TRANSFORM_MIB)
    payload_mib = max(1, min(config.max_request_bytes >> 20, _TRANSFORM_MIB // concurrent))
    document = {
        "MaxConcurrentTransforms": concurrent,
        "BatchStrategy": "MULTI_RECORD",
        "MaxPayloadInMB": payload_mib,
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def tls_context(config: Config) -> ssl.SSLContext | None:
    """For the ports that encrypt; None where none does. Raises ConfigError for files that cannot be used."""
    if config.tls_ports == "none":
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    keystore.load(context, config)
    return context
