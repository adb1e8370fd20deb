"""Multi Model Server 1.1.11, which Headrace replaces: netty and a Python process for each worker.

A pid file that an earlier one left in TMPDIR keeps it from starting, so each start has its own. `decode_input_request`
is off, as SageMaker's toolkit has it: handlers get bodies as they came. Logging at WARN: as shipped it writes a line or
more a request, and is 30 % slower.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode

from bench.peers.peer import Peer, program, scratch
from bench.scenarios import Scenario
from bench.servers import HERE, HOST, Ask, Server, Setup
from bench.toolchain import certificate_and_key

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
#: Half of the connections that most points have, so that one batch can be gathered while another runs.
BATCHES = {"batch_size": 32, "max_batch_delay": 1}
LOGGING = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="WARN">
  <Appenders><Console name="console"><PatternLayout pattern="%d %p %c %m%n"/></Console></Appenders>
  <Loggers><Root level="warn"><AppenderRef ref="console"/></Root></Loggers>
</Configuration>
"""


def server(setup: Setup, name: str = NAME, batches: Mapping[str, int] | None = None) -> Server:
    """batches: how a model is registered so that requests run together, which only the management API can."""
    folder = scratch(name)
    store, temporary, config = folder / "store", folder / "tmp", folder / "config.properties"
    temporary.mkdir()
    for model in setup.models:
        write_model(store, model)
    (folder / "log4j2.xml").write_text(LOGGING)

    def command(port: int, management: int) -> list[str]:
        config.write_text(configured(CONFIG, setup, port=port, management=management))
        words = [program(NAME, "multi-model-server"), "--start", "--foreground", "--model-store", str(store)]
        words += ["--mms-config", str(config), "--log-config", str(folder / "log4j2.xml")]
        return words if batches else [*words, "--models", *(f"{model}={model}" for model in setup.models)]

    def load(model: str) -> Ask:
        if not (store / model).exists():
            write_model(store, model)
        return register(model, batches or {})

    return Server(
        name,
        command,
        {"TMPDIR": str(temporary), "TEMP": str(temporary)},
        ask=ask,
        scheme="https" if setup.is_encrypted else "http",
        load=load,
        is_managed_apart=True,
        first=setup.models if batches else (),
    )


def configured(config: str, setup: Setup, **values: object) -> str:
    """The properties file; where it speaks https, with the certificate."""
    text = config.format(host=HOST, **values)
    if setup.is_encrypted:
        certificate, key = certificate_and_key()
        text = text.replace("http://", "https://")
        text += f"private_key_file={key}\ncertificate_file={certificate}\n"
    return text


def register(model: str, options: Mapping[str, int]) -> Ask:
    """The request that loads a model of the store and starts its worker."""
    values = {"url": model, "model_name": model, "initial_workers": 1, "synchronous": "true", **options}
    return Ask(f"/models?{urlencode(values)}", {}, b"")


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
    "one worker a model, bodies as they came, logging at WARN, no batches",
    needs=("java",),
    warm_up_s=3,
)
BATCHED = Peer(
    f"{NAME}_batches",
    lambda setup: server(setup, f"{NAME}_batches", BATCHES),
    f"the same, models registered with {' and '.join(f'{name}={value}' for name, value in BATCHES.items())}",
    refuses=dict.fromkeys(("cold", "crash", "memory", "many", "tls"), "as without batches"),
    needs=("java",),
    warm_up_s=3,
    folder_name=NAME,
)
