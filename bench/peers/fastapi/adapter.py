"""FastAPI on uvicorn: what people write who write their own server.

The handler reads the body as it came and runs the model inline; on a thread it costs more. uvloop and httptools are
what `uvicorn[standard]` takes by itself; its documentation has the access log off in production.
"""

from collections.abc import Sequence

from bench.peers.peer import Peer, program
from bench.servers import HOST, Server

NAME = "fastapi"


def server(models: Sequence[str]) -> Server:
    words = [program(NAME, "uvicorn"), "bench.peers.fastapi.app:app", "--host", HOST, "--loop", "uvloop"]
    words += ["--http", "httptools", "--no-access-log", "--log-level", "warning"]
    environment = {"BENCH_MODELS": ",".join(models)}
    return Server(NAME, lambda port, _: [*words, "--port", str(port)], environment)


PEER = Peer(NAME, server, "uvicorn with uvloop and httptools, one process, handler inline, no access log")
