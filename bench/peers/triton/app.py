"""A model of Triton's Python backend; its name in the repository says which of bench.work."""

from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from bench import work


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        kind = work.kind_of(args["model_name"])
        self.is_batched = kind == "call"
        self.run = work.ARRAYS[kind]() if self.is_batched else work.answer(args["model_name"])

    def execute(self, requests: list[Any]) -> list[Any]:
        bodies = [triton.get_input_tensor_by_name(request, "body").as_numpy() for request in requests]
        if self.is_batched:
            answers = iter(self.run(np.concatenate(bodies)))
            found = [np.stack([next(answers) for _ in body]) for body in bodies]
        else:
            found = [np.frombuffer(self.run(body.tobytes()), np.uint8) for body in bodies]
        return [triton.InferenceResponse([triton.Tensor("answer", each)]) for each in found]
