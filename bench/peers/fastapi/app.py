"""The models named in BENCH_MODELS, each behind /models/NAME/invoke."""

import os

from fastapi import FastAPI, Request, Response

from bench import work

app = FastAPI()


@app.get("/ping")
async def ping() -> Response:
    return Response()


def serve(model: str) -> None:
    answer = work.answer(model)

    @app.post(f"/models/{model}/invoke")
    async def invoke(request: Request) -> Response:
        return Response(answer(await request.body()), media_type="application/json")


for name in os.environ["BENCH_MODELS"].split(","):
    serve(name)
