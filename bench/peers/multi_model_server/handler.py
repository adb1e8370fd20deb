"""The service of a model directory; MODEL is replaced by the model's name when the directory is written.

A batch runs as one where the model works on arrays and more than one request came.
"""

from typing import Any

from bench import work

MODEL = "MODEL"


def handle(data: Any, context: Any) -> Any:
    if data is None:
        return None
    bodies = [bytes(item["body"]) for item in data]
    for index in range(len(bodies)):
        context.set_response_content_type(index, "application/json")
    if len(bodies) == 1 or MODEL not in work.ARRAYS:
        return [bytes(work.ANSWERS[MODEL](body)) for body in bodies]
    rows = [work.rows(body) for body in bodies]
    answers = iter(work.ARRAYS[MODEL](work.np.concatenate(rows)))
    return [work.predictions([next(answers) for _ in each]) for each in rows]
