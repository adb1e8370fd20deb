"""The service of a model directory; MODEL is replaced by the model's name when the directory is written.

A batch runs as one where the model works on arrays.
"""

from typing import Any

from bench import work

MODEL = "MODEL"
KIND = work.kind_of(MODEL)
run = work.ARRAYS[KIND]() if KIND in work.ARRAYS else None
read = work.image if KIND == "tensor" else work.rows
answer = work.answer(MODEL) if run is None else None


def handle(data: Any, context: Any) -> Any:
    if data is None:
        return None
    bodies = [bytes(item["body"]) for item in data]
    if len(bodies) == 1:  # MMS loses an answer whose fields come to its front end in two reads, as those of many do
        context.set_response_content_type(0, "application/json")
    if run is None:
        return [bytes(answer(body)) for body in bodies]
    rows = [read(body) for body in bodies]
    answers = iter(run(rows[0] if len(rows) == 1 else work.np.concatenate(rows)))
    return [work.predictions(work.np.stack([next(answers) for _ in each])) for each in rows]
