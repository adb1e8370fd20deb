"""LitServe: FastAPI in front, worker processes behind queues. Bodies that are no JSON come as multipart forms.

Its queue over ZeroMQ (`fast_queue`) is on, as its documentation has it for high loads; `call` gets batches.
"""

from bench.peers.peer import Peer, program
from bench.scenarios import Scenario
from bench.servers import HERE, Ask, Server, Setup
from bench.toolchain import certificate_and_key

NAME = "litserve"
BOUNDARY = "bench-boundary-of-a-form"


def server(setup: Setup) -> Server:
    words = [program(NAME), str(HERE / "peers" / NAME / "app.py")]
    environment = {"BENCH_MODELS": ",".join(setup.models)}
    files = [str(file) for file in certificate_and_key()] if setup.is_encrypted else []
    scheme = "https" if setup.is_encrypted else "http"
    return Server(
        NAME, lambda port, _: [*words, str(port), *files], environment, ask=ask, ping="/health", scheme=scheme
    )


def ask(scenario: Scenario) -> Ask:
    target = f"/models/{scenario.model}/invoke"
    if scenario.content_type == "application/json":
        return Ask(target, {"Content-Type": scenario.content_type}, scenario.body)
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="body"; filename="body"\r\n\r\n'.encode()
    body = head + scenario.body + f"\r\n--{BOUNDARY}--\r\n".encode()
    return Ask(target, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}, body)


PEER = Peer(
    NAME,
    server,
    "one worker a model, one API server, fast_queue, forms for binary bodies, batches for `batch`",
    refuses={"cold": "no request that loads a model"},
)
