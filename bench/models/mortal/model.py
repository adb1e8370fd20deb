"""`mortal` of bench/work.py: an echo whose process a certain body kills."""

from collections.abc import Sequence

from bench import work
from headrace import Model, Request, Response


class Mortal(Model):
    def handle(self, requests: list[Request]) -> Sequence[Response]:
        return [Response(work.mortal(request.body), content_type="application/json") for request in requests]
