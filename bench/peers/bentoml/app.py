"""One service with a method for each model of bench.work."""

from pathlib import Path
from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.validators import ContentType
from starlette.responses import Response

from bench import work

File = Annotated[Path, ContentType("application/octet-stream")]
Object = dict[str, Any]


def answered(body: Any) -> Response:
    return Response(bytes(body), media_type="application/json")


@bentoml.service
class Bench:
    @bentoml.api
    async def echo(self, body: Object, /) -> Any:
        return answered(work.orjson.dumps(body))

    @bentoml.api
    async def mlp(self, body: Object, /) -> Any:
        return answered(work.predictions(work.mlp(np.asarray(body["instances"], np.float32))))

    @bentoml.api
    async def tensor(self, body: File, /) -> Any:
        return answered(work.ANSWERS["tensor"](body.read_bytes()))

    @bentoml.api
    async def pages(self, body: File, /) -> Any:
        return answered(work.ANSWERS["pages"](body.read_bytes()))

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
    def call(self, instances: np.ndarray) -> np.ndarray:
        return work.call(np.asarray(instances, np.float32))
