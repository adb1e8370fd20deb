"""The models named in BENCH_MODELS, each in one worker behind /models/NAME/invoke."""

import os
from typing import Any

from mosec import Server, Worker

from bench import work

BATCH = 64
WAIT_MS = 1


class Raw(Worker):
    resp_mime_type = "application/json"
    model = ""

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: Any) -> bytes:
        return bytes(data)

    def forward(self, data: Any) -> Any:
        return work.ANSWERS[self.model](data)


class Batched(Raw):
    def deserialize(self, data: bytes) -> Any:
        return work.rows(data)

    def serialize(self, data: Any) -> bytes:
        return work.predictions(data)

    def forward(self, data: list[Any]) -> list[Any]:
        answers = work.ARRAYS[self.model](work.np.concatenate(data))
        return list(answers.reshape(len(data), 1, -1))


# Workers are spawned, which finds their classes by name.
class Echo(Raw):
    model = "echo"


class Mlp(Raw):
    model = "mlp"


class Tensor(Raw):
    model = "tensor"


class Call(Batched):
    model = "call"


class Pages(Raw):
    model = "pages"


if __name__ == "__main__":
    server = Server()
    workers = {kind.model: kind for kind in (Echo, Mlp, Tensor, Call, Pages)}
    for name in os.environ["BENCH_MODELS"].split(","):
        kind = workers[name]
        limits = {"max_batch_size": BATCH, "max_wait_time": WAIT_MS} if issubclass(kind, Batched) else {}
        server.append_worker(kind, num=1, route=f"/models/{name}/invoke", **limits)
    server.run()
