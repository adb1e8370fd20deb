"""Ray Serve: a cluster of one node, a proxy, a replica for each model.

Handlers get Starlette's request, and read the body as it came; `batch` goes through serve.batch. It needs no dashboard.
"""

from bench.peers.peer import Peer, program
from bench.servers import HERE, Server, Setup
from bench.toolchain import certificate_and_key

NAME = "ray_serve"


def server(setup: Setup) -> Server:
    words = [program(NAME), str(HERE / "peers" / NAME / "app.py")]
    environment = {
        "BENCH_MODELS": ",".join(setup.models),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_SERVE_ENABLE_ACCESS_LOG": "0",
    }
    files = [str(file) for file in certificate_and_key()] if setup.is_encrypted else []
    scheme = "https" if setup.is_encrypted else "http"
    return Server(NAME, lambda port, _: [*words, str(port), *files], environment, ping="/-/healthz", scheme=scheme)


PEER = Peer(
    NAME,
    server,
    "one replica a model, bodies as they came, no access log, batches for `batch`",
    refuses={"cold": "no request that loads a model: applications are deployed as a whole"},
)
