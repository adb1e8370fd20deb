"""What the platform asks of a container over HTTP: /ping, /invocations, and the API for many models.

Source: "Custom Containers Contract for Multi-Model Endpoints". A container that is gone, or speaks no HTTP, is Lost;
one that takes too long raises asyncio.TimeoutError.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp

from headrace.simulate.rules import BODY_MAX_BYTES

LIST_PAGES_MAX = 1000


class Lost(Exception):
    """There was no answer, and there will be none."""


class AnswerTooLarge(Exception):
    """More than BODY_MAX_BYTES."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


class ModelApi:
    """url: of the container. Connections are kept; open() and close() in the loop that uses them."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def ping(self, timeout_s: float) -> int:
        """The status; 0 when there was no answer in time."""
        try:
            return (await self._call("GET", "/ping", timeout_s)).status
        except (Lost, AnswerTooLarge, asyncio.TimeoutError):
            return 0

    async def load(self, name: str, url: str, target: str, timeout_s: float) -> Answer:
        body = json.dumps({"model_name": name, "url": url}).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json", **_of(target)}
        return await self._call("POST", "/models", timeout_s, body, headers)

    async def unload(self, name: str, target: str, timeout_s: float) -> Answer:
        return await self._call("DELETE", f"/models/{quote(name, safe='')}", timeout_s, headers=_of(target))

    async def loaded(self, timeout_s: float) -> set[str]:
        """Names of the models that the container says it has, of all pages of its list."""
        names: set[str] = set()
        token = ""
        for _ in range(LIST_PAGES_MAX):
            query = f"?next_page_token={quote(token, safe='')}" if token else ""
            answer = await self._call("GET", f"/models{query}", timeout_s, headers={"Accept": "application/json"})
            try:
                document = json.loads(answer.body)
                names |= {str(model["modelName"]) for model in document["models"]}
                token = str(document.get("nextPageToken") or "")
            except (ValueError, KeyError, TypeError) as error:
                raise Lost(f"GET /models was answered {answer.status}, not with a list of models") from error
            if not token:
                break
        return names

    async def invoke(self, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
        """path: /invocations, or as invoke_path() says."""
        return await self._call("POST", path, timeout_s, body, headers)

    async def _call(
        self,
        method: str,
        path: str,
        timeout_s: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        assert self._session is not None  # opened
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(
                method, self.url + path, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                fields = {name.lower(): value for name, value in response.headers.items()}
                return Answer(response.status, fields, await _read(response))
        except asyncio.TimeoutError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise Lost(str(error) or type(error).__name__) from None


def invoke_path(name: str) -> str:
    return f"/models/{quote(name, safe='')}/invoke"


def _of(target: str) -> dict[str, str]:
    return {"X-Amzn-SageMaker-Target-Model": target}


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > BODY_MAX_BYTES:
            response.close()
            raise AnswerTooLarge
    return bytes(body)
