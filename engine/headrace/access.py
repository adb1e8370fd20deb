"""The bearer token that the management API, and inference where that is wished, ask for (RFC 6750).

It comes from a file rather than a variable, since variables are inherited by models and shown by tools. The supervisor
reads the file at the start and at SIGHUP; frontends compare (ext/access.h). It is never logged.
"""

import os
import re
import stat

from headrace import log
from headrace.config import Config
from headrace.control import Message
from headrace.errors import ConfigError

TOKEN_MIN, TOKEN_MAX = 16, 4096
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1: b64token

_log = log.get("supervisor")


def read_token(path: str) -> str:
    """The token in the file at *path*, white space around it cut off. Raises ConfigError, which never shows it."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(TOKEN_MAX + 1024).decode("ascii", "replace").strip()
    except OSError as error:
        raise ConfigError(f"HEADRACE_TOKEN_FILE={path} cannot be read: {error.strerror}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        _log.warning("token.exposed", file=path, mode=f"{stat.S_IMODE(mode):03o}", remedy=f"chmod 600 {path}")
    if not TOKEN_MIN <= len(text) <= TOKEN_MAX:
        raise ConfigError(f"HEADRACE_TOKEN_FILE={path} must hold a token of {TOKEN_MIN} to {TOKEN_MAX} characters")
    if not _TOKEN.fullmatch(text):
        raise ConfigError(f"HEADRACE_TOKEN_FILE={path} must hold one token of letters, digits and -._~+/ only")
    return text


def message(config: Config) -> Message:
    """What a frontend has to know. Raises ConfigError."""
    token = read_token(config.token_file) if config.token_file else ""
    return {
        "op": "token",
        "token": token,
        "guards_inference": config.token_scope == "all",
        "guards_reading": config.token_scope != "changes",
    }
