"""FastAPI on uvicorn: what people write who write their own server.

The handler reads the body as it came and runs the model inline; on a thread it costs more. uvloop and httptools are
what `uvicorn[standard]` takes by itself; its documentation has the access log off in production.
"""

from bench.peers.peer import Peer, program
from bench.servers import HOST, Server, Setup
from bench.toolchain import certificate_and_key

NAME = "fastapi"


def server(setup: Setup) -> Server:
    words = [program(NAME, "uvicorn"), "bench.peers.fastapi.app:app", "--host", HOST, "--loop", "uvloop"]
    words += ["--http", "httptools", "--no-access-log", "--log-level", "warning"]
    environment = {"BENCH_MODELS": ",".join(setup.models)}
    if setup.is_encrypted:
        certificate, key = certificate_and_key()
        words += ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)]
    scheme = "https" if setup.is_encrypted else "http"
    return Server(NAME, lambda port, _: [*words, "--port", str(port)], environment, scheme=scheme)


PEER = Peer(
    NAME,
    server,
    "uvicorn with uvloop and httptools, one process, handler inline, no access log",
    refuses={"cold": "no request that loads a model"},
)
