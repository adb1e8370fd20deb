"""A runtime for each model of bench.work: a route of its own, and /v2 for what it batches."""

from typing import Any

from fastapi import Request, Response
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse

from bench import work


class Call(MLModel):
    async def load(self) -> bool:
        self.run = work.ARRAYS["call"]()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0])
        output = NumpyCodec.encode_output("y", self.run(rows))
        return InferenceResponse(model_name=self.name, outputs=[output])


class Routed(MLModel):
    """Base of what __getattr__ makes."""

    async def load(self) -> bool:
        self.answer = work.answer(self.name)
        return True


async def invoke(self: Routed, request: Request) -> Any:
    return Response(bytes(self.answer(await request.body())), media_type="application/json")


def __getattr__(name: str) -> type[Routed]:
    """The class of the model of this name, with a route of its own: model-settings.json names it."""
    if not name.startswith("Model_"):
        raise AttributeError(name)
    model = name.removeprefix("Model_").replace("_", "-")

    async def own(self: Routed, request: Request) -> Any:
        return await invoke(self, request)

    return type(name, (Routed,), {"invoke": custom_handler(rest_path=f"/models/{model}/invoke")(own)})
