"""`pages` of bench/work.py: any body, looked at where it lies."""

from bench import work
from headrace import Model, Request


class Pages(Model):
    def handle(self, requests: list[Request]) -> list[dict[str, int]]:
        return [work.pages(request.body) for request in requests]
