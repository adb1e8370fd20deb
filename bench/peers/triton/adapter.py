"""Triton Inference Server, as the wheel of PyTriton brings it, with models in its Python backend.

Requests are raw binary ones of the KServe v2 protocol (a header length of 0): the body is the only input. The backend's
stub wants libpython of the system's Python 3.11, which is Debian 12's.
"""

import json
import shutil
from pathlib import Path

import numpy as np

from bench.peers.peer import Peer, home, scratch
from bench.scenarios import Scenario
from bench.servers import HERE, HOST, ROOT, Ask, Server, Setup

NAME = "triton"
PYTHON = "/usr/bin/python3.11"
STUB = "triton_python_backend_stub"
CONFIG = """name: "{model}"
backend: "python"
max_batch_size: {batch}
input [ {{ name: "body" data_type: {kind} dims: [ {dims} ] }} ]
output [ {{ name: "answer" data_type: {kind} dims: [ {answer_dims} ] }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
"""


def server(setup: Setup) -> Server:
    folder = scratch(NAME)
    for model in setup.models:
        write_model(folder, model)
    package = home(NAME) / "lib" / "python3.11" / "site-packages"
    triton = package / "pytriton" / "tritonserver"
    backends = triton / "backends"
    stub = triton / "python_backend_stubs" / "3.11" / STUB
    if stub.exists() and not (backends / "python" / STUB).exists():
        shutil.copy(stub, backends / "python")

    def command(port: int, other: int) -> list[str]:
        words = [str(triton / "bin" / "tritonserver"), "--model-repository", str(folder)]
        words += ["--backend-directory", str(backends), "--http-address", HOST, "--http-port", str(port)]
        words += ["--allow-grpc", "false", "--allow-metrics", "false", "--log-info", "false"]
        words += ["--model-control-mode", "explicit", *(f"--load-model={model}" for model in setup.models)]
        return [*words, "--http-thread-count", "8"]

    def load(model: str) -> Ask:
        write_model(folder, model)
        return Ask(f"/v2/repository/models/{model}/load", {}, b"")

    environment = {
        "LD_LIBRARY_PATH": str(package / "nvidia_pytriton.libs"),
        "PYTHONPATH": f"{ROOT}:{package}",
        "PATH": f"{home(NAME) / 'bin'}:/usr/local/bin:/usr/bin:/bin",
    }
    return Server(NAME, command, environment, ask=ask, read=read, ping="/v2/health/ready", load=load)


def write_model(folder: Path, model: str) -> None:
    """Into the repository."""
    (folder / model / "1").mkdir(parents=True)
    shutil.copy(HERE / "peers" / NAME / "app.py", folder / model / "1" / "model.py")
    if model == "call":
        config = CONFIG.format(model=model, batch=64, kind="TYPE_FP32", dims=4, answer_dims=1)
        config += "dynamic_batching { }\n"
    else:
        config = CONFIG.format(model=model, batch=0, kind="TYPE_UINT8", dims=-1, answer_dims=-1)
    (folder / model / "config.pbtxt").write_text(config)


def ask(scenario: Scenario) -> Ask:
    body = scenario.body
    if scenario.model == "call":
        body = np.asarray(json.loads(body)["instances"], np.float32).tobytes()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"}
    return Ask(f"/v2/models/{scenario.model}/infer", headers, body)


def read(scenario: Scenario, body: bytes) -> bytes:
    """The binary output, behind a head in JSON whose length only a header tells; it ends with the object."""
    end = json.JSONDecoder().raw_decode(body.decode("latin-1"))[1]
    found = body[end:]
    if scenario.model == "call":
        return json.dumps({"predictions": np.frombuffer(found, np.float32).reshape(-1, 1).tolist()}).encode()
    return found


PEER = Peer(
    NAME,
    server,
    "Python backend, one instance a model, raw binary requests, dynamic batches for `batch`, no gRPC, no metrics",
    python=PYTHON,
    refuses={"tls": "it speaks no TLS over HTTP"},
)
