"""A runtime for each model of bench.work: a route of its own, and /v2 for what it batches."""

from typing import Any

from fastapi import Request, Response
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse

from bench import work


class Batchable(MLModel):
    work_name = ""

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0])
        output = NumpyCodec.encode_output("y", work.ARRAYS[self.work_name](rows))
        return InferenceResponse(model_name=self.name, outputs=[output])


def answered(name: str, body: bytes) -> Response:
    return Response(bytes(work.ANSWERS[name](body)), media_type="application/json")


class Call(Batchable):
    work_name = "call"


class Echo(Batchable):
    @custom_handler(rest_path="/models/echo/invoke")
    async def invoke(self, request: Request) -> Any:
        return answered("echo", await request.body())


class Mlp(Batchable):
    work_name = "mlp"

    @custom_handler(rest_path="/models/mlp/invoke")
    async def invoke(self, request: Request) -> Any:
        return answered("mlp", await request.body())


class Tensor(Batchable):
    @custom_handler(rest_path="/models/tensor/invoke")
    async def invoke(self, request: Request) -> Any:
        return answered("tensor", await request.body())


class Pages(Batchable):
    @custom_handler(rest_path="/models/pages/invoke")
    async def invoke(self, request: Request) -> Any:
        return answered("pages", await request.body())
