"""Ray Serve: a cluster of one node, a proxy, a replica for each model.

Handlers get Starlette's request, and read the body as it came; `batch` goes through serve.batch. It needs no dashboard.
"""

from collections.abc import Sequence

from bench.peers.peer import Peer, program
from bench.servers import HERE, Server

NAME = "ray_serve"


def server(models: Sequence[str]) -> Server:
    words = [program(NAME), str(HERE / "peers" / NAME / "app.py")]
    environment = {
        "BENCH_MODELS": ",".join(models),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_SERVE_ENABLE_ACCESS_LOG": "0",
    }
    return Server(NAME, lambda port, _: [*words, str(port)], environment, ping="/-/healthz")


PEER = Peer(NAME, server, "one replica a model, bodies as they came, no access log, batches for `batch`")
