"""The command that gets a prediction from the bundled digits model, shown once the server is ready.

With text logs it is a line of its own on standard output, where nothing else is written, to be copied into a shell.
With json logs it is one more event (`example command=...`) on standard error: whoever collects logs finds JSON only.
"""

import os
import shlex
import sys

from headrace import log
from headrace.config import Config
from headrace.startup_models import BUNDLED

SAMPLE = os.path.join(BUNDLED, "samples", "digit-7.json")  # an image that training never saw; the answer is 7
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where a server on every address is reached from its own machine


def show(config: Config, url: str) -> None:
    """Print it, when the bundled model is among the models. url: of the inference port, as it is really bound."""
    command = curl(config, url)
    if command is None:
        return
    if config.log_format == "json":
        log.get("example").info("example", command=command)
        return
    try:
        print(command, flush=True)
    except (OSError, ValueError):  # standard output is closed or a broken pipe: nobody wants to read it
        sys.stdout = None


def curl(config: Config, url: str) -> str | None:
    """One shell line for the sample image of a seven; None when the bundled model is not served."""
    names = [spec.name for spec in config.models if os.path.realpath(spec.path) == os.path.realpath(BUNDLED)]
    if not names:
        return None
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    host = _LOOPBACK.get(parts.hostname or "", parts.hostname or "")
    host = f"[{host}]" if ":" in host else host
    words = ["curl", "-H", "content-type: application/json", "--data", f"@{SAMPLE}"]
    return shlex.join([*words, f"{parts.scheme}://{host}:{parts.port}/models/{names[0]}/invoke"])
