"""BentoML: typed services. JSON bodies are typed as an object, others as a file; `batch` is a batchable method.

A method answers a Response, which is passed on as it is. Access logs and metrics are off.
"""

from bench.peers.peer import Peer, program, scratch
from bench.scenarios import Scenario
from bench.servers import HERE, HOST, Ask, Server, Setup
from bench.toolchain import certificate_and_key

NAME = "bentoml"
CONFIG = """services:
  Bench:
    workers: 1
    logging: {access: {enabled: false}}
    metrics: {enabled: false}
    traffic: {timeout: 60, max_concurrency: 10000}
"""


def server(setup: Setup) -> Server:
    folder = scratch(NAME)
    (folder / "configuration.yaml").write_text(CONFIG)
    (folder / "home").mkdir()
    words = [program(NAME, "bentoml"), "serve", "app:Bench", "--working-dir", str(HERE / "peers" / NAME)]
    words += ["--host", HOST, "--quiet"]
    environment = {
        "BENTOML_CONFIG": str(folder / "configuration.yaml"),
        "BENTOML_HOME": str(folder / "home"),
        "BENTOML_DO_NOT_TRACK": "true",
        "BENCH_MODELS": ",".join(setup.models),
    }
    if setup.is_encrypted:
        certificate, key = certificate_and_key()
        words += ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)]
    return Server(
        NAME,
        lambda port, _: [*words, "--port", str(port)],
        environment,
        ask=ask,
        read=read,
        ping="/readyz",
        scheme="https" if setup.is_encrypted else "http",
    )


def ask(scenario: Scenario) -> Ask:
    kind = scenario.content_type
    kind = kind if kind == "application/json" else "application/octet-stream"
    return Ask(f"/{scenario.model}", {"Content-Type": kind}, scenario.body)


def read(scenario: Scenario, body: bytes) -> bytes:
    return b'{"predictions": %b}' % body if scenario.model == "call" else body


PEER = Peer(
    NAME,
    server,
    "one worker for all models, methods inline, batches for `batch`, no access log, no metrics",
    refuses={"cold": "no request that loads a model"},
)
