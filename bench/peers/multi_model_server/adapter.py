"""Multi Model Server 1.1.11, which Headrace replaces: netty and a Python process for each worker.

A pid file that an earlier one left in TMPDIR keeps it from starting, so each start has its own. `decode_input_request`
is off, as SageMaker's toolkit has it: handlers get bodies as they came. Logging at WARN: as shipped it writes a line or
more a request, and is 30 % slower.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from bench.peers.peer import Peer, program, scratch
from bench.scenarios import Scenario
from bench.servers import HERE, HOST, Ask, Server

NAME = "multi_model_server"
CONFIG = """inference_address=http://{host}:{port}
management_address=http://{host}:{management}
default_workers_per_model=1
job_queue_size=1000
decode_input_request=false
max_request_size=67108864
max_response_size=67108864
preload_model=false
"""
LOGGING = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="WARN">
  <Appenders><Console name="console"><PatternLayout pattern="%d %p %c %m%n"/></Console></Appenders>
  <Loggers><Root level="warn"><AppenderRef ref="console"/></Root></Loggers>
</Configuration>
"""


def server(models: Sequence[str]) -> Server:
    folder = scratch(NAME)
    store, temporary, config = folder / "store", folder / "tmp", folder / "config.properties"
    temporary.mkdir()
    for model in models:
        write_model(store, model)
    (folder / "log4j2.xml").write_text(LOGGING)

    def command(port: int, management: int) -> list[str]:
        config.write_text(CONFIG.format(host=HOST, port=port, management=management))
        words = [program(NAME, "multi-model-server"), "--start", "--foreground", "--model-store", str(store)]
        words += ["--mms-config", str(config), "--log-config", str(folder / "log4j2.xml")]
        return [*words, "--models", *(f"{model}={model}" for model in models)]

    return Server(NAME, command, {"TMPDIR": str(temporary), "TEMP": str(temporary)}, ask=ask)


def write_model(store: Path, model: str) -> None:
    folder = store / model
    (folder / "MAR-INF").mkdir(parents=True)
    (folder / "handler.py").write_text(
        (HERE / "peers" / NAME / "handler.py").read_text().replace('"MODEL"', repr(model))
    )
    manifest = {"runtime": "python", "model": {"modelName": model, "handler": "handler:handle"}}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))


def ask(scenario: Scenario) -> Ask:
    return Ask(f"/predictions/{scenario.model}", {"Content-Type": scenario.content_type}, scenario.body)


PEER = Peer(
    NAME,
    server,
    "one worker a model, bodies as they came, logging at WARN, no batches (they need the management API)",
    needs=("java",),
    warm_up_s=3,
)
