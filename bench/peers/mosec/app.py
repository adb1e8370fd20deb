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

    def __init__(self) -> None:
        super().__init__()
        self.answer = work.answer(self.model)

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: Any) -> bytes:
        return bytes(data)

    def forward(self, data: Any) -> Any:
        return self.answer(data)


class Batched(Raw):
    def __init__(self) -> None:
        super().__init__()
        self.run = work.ARRAYS[self.model]()

    def deserialize(self, data: bytes) -> Any:
        return work.rows(data)

    def serialize(self, data: Any) -> bytes:
        return work.predictions(data)

    def forward(self, data: list[Any]) -> list[Any]:
        answers = self.run(work.np.concatenate(data))
        return list(answers.reshape(len(data), 1, -1))


def worker(model: str) -> type[Raw]:
    name = f"Worker_{model.replace('-', '_')}"
    return type(name, (Batched if model == "call" else Raw,), {"model": model, "__module__": __name__})


# Workers are spawned, which finds their classes by name.
MODELS = os.environ["BENCH_MODELS"].split(",")
WORKERS = {model: worker(model) for model in MODELS}
globals().update({kind.__name__: kind for kind in WORKERS.values()})


if __name__ == "__main__":
    server = Server()
    for name, kind in WORKERS.items():
        limits = {"max_batch_size": BATCH, "max_wait_time": WAIT_MS} if issubclass(kind, Batched) else {}
        server.append_worker(kind, num=1, route=f"/models/{name}/invoke", **limits)
    server.run()
