"""The models named in BENCH_MODELS behind /models/NAME/invoke: `app.py PORT [CERTIFICATE KEY]`."""

import os
import sys
from typing import Any

import litserve
import numpy as np
from fastapi import Request

from bench import work

BATCH = 64
WAIT_S = 0.001


class Json(litserve.LitAPI):
    """The server has decoded the body, and encodes the answer."""

    model = ""

    def setup(self, device: str) -> None:
        kind = work.kind_of(self.model)
        self.run = work.ARRAYS[kind]() if kind in work.ARRAYS else None

    def decode_request(self, request: Request) -> Any:
        return request

    def predict(self, body: Any) -> Any:
        if self.run is not None:
            return {"predictions": self.run(np.asarray(body["instances"], np.float32)).tolist()}
        if self.model == "mortal":
            work.mortal(work.orjson.dumps(body))
        return body

    def encode_response(self, answer: Any) -> Any:
        return answer


class Form(litserve.LitAPI):
    """The body is a file of a form."""

    model = ""

    def setup(self, device: str) -> None:
        self.answer = work.answer(self.model)

    def decode_request(self, request: Request) -> bytes:
        return request["body"].file.read()

    def predict(self, body: bytes) -> bytes:
        return bytes(self.answer(body))

    def encode_response(self, answer: bytes) -> Any:
        return work.orjson.loads(answer)


class Batched(litserve.LitAPI):
    """Rows of several requests, run together."""

    model = ""

    def setup(self, device: str) -> None:
        self.run = work.ARRAYS[self.model]()

    def decode_request(self, request: Request) -> Any:
        return np.asarray(request["instances"], np.float32)

    def batch(self, inputs: list[Any]) -> Any:
        return np.concatenate(inputs)

    def predict(self, rows: Any) -> Any:
        return self.run(rows)

    def unbatch(self, output: Any) -> Any:
        return list(output)

    def encode_response(self, answer: Any) -> Any:
        return {"predictions": [answer.tolist()]}


def api(name: str) -> litserve.LitAPI:
    path = f"/models/{name}/invoke"
    if name == "call":
        found = Batched(max_batch_size=BATCH, batch_timeout=WAIT_S, api_path=path)
    else:
        found = (Form if name in ("tensor", "pages") else Json)(api_path=path)
    found.model = name
    return found


if __name__ == "__main__":
    names = os.environ["BENCH_MODELS"].split(",")
    server = litserve.LitServer([api(name) for name in names], accelerator="cpu", workers_per_device=1, fast_queue=True)
    port, *files = sys.argv[1:]
    encrypted = dict(zip(("ssl_certfile", "ssl_keyfile"), files, strict=False))
    quiet = {"log_level": "warning", "generate_client_file": False}
    server.run(host="127.0.0.1", port=int(port), num_api_servers=1, **quiet, **encrypted)
