"""MLServer: the Open Inference Protocol on FastAPI.

Models run in the server's own process (`parallel_workers: 0`, as its documentation has it for cheap ones) behind custom
handlers, which get a body as it came; `batch` goes the way that its adaptive batches need, by /v2. Metrics are off.
"""

import json
from pathlib import Path
from typing import Any

from bench.peers.peer import Peer, program, scratch
from bench.scenarios import Scenario
from bench.servers import HOST, Ask, Server, Setup

NAME = "mlserver"
BATCH = 64
WAIT_S = 0.001


def server(setup: Setup) -> Server:
    folder = scratch(NAME)
    for model in setup.models:
        write_model(folder, model)

    def load(model: str) -> Ask:
        write_model(folder, model)
        return Ask(f"/v2/repository/models/{model}/load", {}, b"")

    def command(port: int, other: int) -> list[str]:
        settings: dict[str, Any] = {
            "host": HOST,
            "http_port": port,
            "grpc_port": other,
            "parallel_workers": 0,
            "debug": False,
        }
        settings |= {"metrics_endpoint": None}
        (folder / "settings.json").write_text(json.dumps(settings))
        return [program(NAME, "mlserver"), "start", str(folder)]

    return Server(NAME, command, ask=ask, read=read, ping="/v2/health/ready", load=load)


def write_model(folder: Path, model: str) -> None:
    """Into the repository."""
    (folder / model).mkdir()
    kind = "Call" if model == "call" else f"Model_{model.replace('-', '_')}"
    settings: dict[str, Any] = {"name": model, "implementation": f"bench.peers.mlserver.app.{kind}"}
    if model == "call":
        settings |= {"max_batch_size": BATCH, "max_batch_time": WAIT_S}
    (folder / model / "model-settings.json").write_text(json.dumps(settings))


def ask(scenario: Scenario) -> Ask:
    if scenario.model != "call":
        target = f"/models/{scenario.model}/invoke"
        return Ask(target, {"Content-Type": scenario.content_type}, scenario.body)
    rows = json.loads(scenario.body)["instances"]
    tensor = {
        "name": "x",
        "shape": [len(rows), len(rows[0])],
        "datatype": "FP32",
        "data": [value for row in rows for value in row],
    }
    body = json.dumps({"inputs": [tensor]}).encode()
    return Ask(f"/v2/models/{scenario.model}/infer", {"Content-Type": "application/json"}, body)


def read(scenario: Scenario, body: bytes) -> bytes:
    if scenario.model != "call":
        return body
    output = json.loads(body)["outputs"][0]
    width = output["shape"][1]
    data = output["data"]
    return json.dumps({"predictions": [data[at : at + width] for at in range(0, len(data), width)]}).encode()


PEER = Peer(
    NAME,
    server,
    "models in the server's process, custom handlers (bodies as they came), no metrics",
    refuses={"large": "a body of 20 MB did not get through within 100 s", "tls": "it speaks no TLS over HTTP"},
)
