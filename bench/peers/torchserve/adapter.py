"""TorchServe 0.12, the successor of Multi Model Server by the same hands; archived since 2025, still in images.

Tokens are off and the model API is on, so that its management works as the others' do. Logging at WARN. torch must be
there though no model here uses it. `call` gets batches of up to 64.
"""

import json

from bench.peers.multi_model_server.adapter import LOGGING, ask, configured, register, write_model
from bench.peers.peer import Peer, program, scratch
from bench.servers import Ask, Server, Setup

NAME = "torchserve"
BATCH = 64
DELAY_MS = 1
CONFIG = """inference_address=http://{host}:{port}
management_address=http://{host}:{management}
metrics_address=http://{host}:{metrics}
grpc_inference_port={grpc}
grpc_management_port={grpc_management}
model_store={store}
load_models=none
enable_envvars_config=false
job_queue_size=1000
decode_input_request=false
max_request_size=67108864
max_response_size=67108864
disable_system_metrics=true
install_py_dep_per_model=false
model_snapshot={snapshot}
"""


def server(setup: Setup, name: str = NAME, is_batched: bool = False) -> Server:
    """is_batched: all models, not `call` alone."""
    folder = scratch(name)
    store, temporary, config = folder / "store", folder / "tmp", folder / "config.properties"
    temporary.mkdir()
    for model in setup.models:
        write_model(store, model)
    (folder / "log4j2.xml").write_text(LOGGING)
    limits = {"defaultVersion": True, "minWorkers": 1, "maxWorkers": 1, "responseTimeout": 120}
    named = {
        model: {
            "1.0": {
                "marName": model,
                "batchSize": BATCH if is_batched or model == "call" else 1,
                "maxBatchDelay": DELAY_MS,
                **limits,
            }
        }
        for model in setup.models
    }
    snapshot = json.dumps({"name": "bench", "modelCount": len(setup.models), "models": named})

    def command(port: int, management: int) -> list[str]:
        ports = {"port": port, "management": management, "metrics": management + 1}
        ports |= {"grpc": management + 2, "grpc_management": management + 3}
        config.write_text(configured(CONFIG, setup, store=store, snapshot=snapshot, **ports))
        words = [program(NAME, "torchserve"), "--start", "--foreground", "--model-store", str(store)]
        words += ["--ts-config", str(config), "--log-config", str(folder / "log4j2.xml")]
        return [*words, "--disable-token-auth", "--enable-model-api"]

    def load(model: str) -> Ask:
        write_model(store, model)
        return register(model, {})

    environment = {"TMPDIR": str(temporary), "TEMP": str(temporary), "LOG_LOCATION": str(folder)}
    return Server(
        name,
        command,
        environment | {"METRICS_LOCATION": str(folder)},
        ask=ask,
        scheme="https" if setup.is_encrypted else "http",
        load=load,
        is_managed_apart=True,
    )


PEER = Peer(
    NAME,
    server,
    f"one worker a model, bodies as they came, logging at WARN, batches of up to {BATCH} for `batch`",
    needs=("java",),
    warm_up_s=3,
)
BATCHED = Peer(
    f"{NAME}_batches",
    lambda setup: server(setup, f"{NAME}_batches", True),
    f"the same, with batches of up to {BATCH} and maxBatchDelay {DELAY_MS} ms for all models",
    refuses=dict.fromkeys(("cold", "crash", "memory", "many", "tls"), "as without batches"),
    needs=("java",),
    warm_up_s=3,
    folder_name=NAME,
)
