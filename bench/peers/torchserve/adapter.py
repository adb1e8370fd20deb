"""TorchServe 0.12, the successor of Multi Model Server by the same hands; archived since 2025, still in images.

Tokens are off and the model API is on, so that its management works as the others' do. Logging at WARN. torch must be
there though no model here uses it. `call` gets batches of up to 64.
"""

import json
from collections.abc import Sequence

from bench.peers.multi_model_server.adapter import LOGGING, ask, write_model
from bench.peers.peer import Peer, program, scratch
from bench.servers import HOST, Server

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


def server(models: Sequence[str]) -> Server:
    folder = scratch(NAME)
    store, temporary, config = folder / "store", folder / "tmp", folder / "config.properties"
    temporary.mkdir()
    for model in models:
        write_model(store, model)
    (folder / "log4j2.xml").write_text(LOGGING)
    limits = {"defaultVersion": True, "minWorkers": 1, "maxWorkers": 1, "responseTimeout": 120}
    named = {
        model: {
            "1.0": {"marName": model, "batchSize": BATCH if model == "call" else 1, "maxBatchDelay": DELAY_MS} | limits
        }
        for model in models
    }
    snapshot = json.dumps({"name": "bench", "modelCount": len(models), "models": named})

    def command(port: int, management: int) -> list[str]:
        ports = {"port": port, "management": management, "metrics": management + 1}
        ports |= {"grpc": management + 2, "grpc_management": management + 3}
        config.write_text(CONFIG.format(host=HOST, store=store, snapshot=snapshot, **ports))
        words = [program(NAME, "torchserve"), "--start", "--foreground", "--model-store", str(store)]
        words += ["--ts-config", str(config), "--log-config", str(folder / "log4j2.xml")]
        return [*words, "--disable-token-auth", "--enable-model-api"]

    environment = {"TMPDIR": str(temporary), "TEMP": str(temporary), "LOG_LOCATION": str(folder)}
    return Server(NAME, command, environment | {"METRICS_LOCATION": str(folder)}, ask=ask)


PEER = Peer(
    NAME,
    server,
    "one worker a model, bodies as they came, logging at WARN, batches of up to 64 for `batch`",
    needs=("java",),
    warm_up_s=3,
)
