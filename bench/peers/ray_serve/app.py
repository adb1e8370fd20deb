"""The models named in BENCH_MODELS, each an application behind /models/NAME/invoke: `app.py PORT [CERTIFICATE KEY]`."""

import logging
import os
import signal
import sys
from typing import Any

import numpy as np
import ray
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request
from starlette.responses import Response

from bench import work

BATCH = 64
WAIT_S = 0.001


@serve.deployment(max_ongoing_requests=1000)
class One:
    def __init__(self, name: str) -> None:
        self.answer = work.answer(name)

    async def __call__(self, request: Request) -> Response:
        return Response(bytes(self.answer(await request.body())), media_type="application/json")


@serve.deployment(max_ongoing_requests=1000)
class Batched:
    def __init__(self, name: str) -> None:
        self.work = work.ARRAYS[name]()

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_S)
    async def run(self, rows: list[Any]) -> list[Any]:
        return list(self.work(np.concatenate(rows)))

    async def __call__(self, request: Request) -> Response:
        answer = await self.run(work.rows(await request.body()))
        return Response(work.predictions(answer[None]), media_type="application/json")


if __name__ == "__main__":
    port, *files = sys.argv[1:]
    encrypted = dict(zip(("ssl_certfile", "ssl_keyfile"), files, strict=False))
    ray.init(include_dashboard=False, num_cpus=8, logging_level=logging.WARNING, log_to_driver=False)
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(port), **encrypted},
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
    )
    for name in os.environ["BENCH_MODELS"].split(","):
        kind = Batched if name == "call" else One
        quiet = kind.options(ray_actor_options={"num_cpus": 0.1}, logging_config={"enable_access_log": False})
        serve.run(quiet.bind(name), name=name, route_prefix=f"/models/{name}/invoke")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.pause()
