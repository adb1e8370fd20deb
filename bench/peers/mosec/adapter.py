"""mosec: a front end in Rust, Python workers behind Unix sockets.

Bodies go to the worker as they came and are decoded there. `call` gets batches of up to 64, as its documentation has
it for models that profit; the others run one by one.
"""

from bench.peers.peer import Peer, program
from bench.servers import HERE, HOST, Server, Setup

NAME = "mosec"


def server(setup: Setup) -> Server:
    words = [program(NAME), str(HERE / "peers" / NAME / "app.py"), "--address", HOST, "--log-level", "warning"]
    words += ["--max-request-size", str(64 << 20)]
    environment = {"BENCH_MODELS": ",".join(setup.models)}
    return Server(NAME, lambda port, _: [*words, "--port", str(port)], environment, ping="/")


PEER = Peer(
    NAME,
    server,
    "one worker a model, bodies as they came, batches of up to 64 for `batch`",
    refuses={"cold": "no request that loads a model", "tls": "it speaks no TLS"},
)
