"""Answers what it was asked: the cost of everything but a model."""

from collections.abc import Sequence

from headrace import Model, Request, Response


class Echo(Model):
    def handle(self, requests: list[Request]) -> Sequence[Response]:
        return [Response(request.body, content_type="application/json") for request in requests]
