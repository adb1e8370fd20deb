"""One service with a method for each of the models named in BENCH_MODELS."""

import os
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


def method(model: str) -> Any:
    """As its signature says, JSON bodies come decoded, others as a file."""
    kind = work.kind_of(model)
    if kind == "mlp":
        mlp = work.Mlp()

        async def run(self: Any, body: Object, /) -> Any:
            return answered(work.predictions(mlp(np.asarray(body["instances"], np.float32))))

    elif kind in ("tensor", "pages"):
        answer = work.answer(model)

        async def run(self: Any, body: File, /) -> Any:
            return answered(answer(body.read_bytes()))

    elif kind == "call":
        call = work.ARRAYS["call"]()

        def batched(self: Any, instances: np.ndarray) -> np.ndarray:
            return call(np.asarray(instances, np.float32))

        batched.__name__ = attribute(model)
        return bentoml.api(batched, route=f"/{model}", batchable=True, max_batch_size=64, max_latency_ms=1000)
    else:
        answer = work.answer(model)

        async def run(self: Any, body: Object, /) -> Any:
            return answered(answer(work.orjson.dumps(body)))

    run.__name__ = attribute(model)
    return bentoml.api(run, route=f"/{model}")


def attribute(model: str) -> str:
    """Of the service, which looks its methods up by their own names, beside names of its own such as `call`."""
    return f"model_{model.replace('-', '_')}"


MODELS = os.environ["BENCH_MODELS"].split(",")
Bench = bentoml.service(type("Bench", (), {attribute(model): method(model) for model in MODELS}))
