"""The HTTP side: `POST /endpoints/NAME/invocations` as SDKs send it and read it, `/metrics`, `/metrics.json`, `/ping`.

Requests are not authenticated: whatever signature a client sends, such as one of dummy credentials, is not looked at.
"""

import asyncio
import json
import re
import time
import uuid
from collections.abc import Mapping

from aiohttp import web

from headrace import log
from headrace.simulate.api_errors import (
    ACCOUNT,
    ApiError,
    BodyTooLarge,
    InternalFailure,
    ModelError,
    ServiceUnavailable,
    ValidationError,
)
from headrace.simulate.platform import RETURNED, Platform
from headrace.simulate.rules import BODY_MAX_BYTES, INVOCATIONS_MAX
from headrace.simulate.trace import Record, Trace

_log = log.get("simulate")

NAME = re.compile(r"[a-zA-Z0-9](?:-*[a-zA-Z0-9]){0,62}")  # EndpointName, VariantName
VARIANT = "x-Amzn-Invoked-Production-Variant"


class Endpoint:
    def __init__(self, platform: Platform, trace: Trace) -> None:
        self._platform = platform
        self._trace = trace
        self._began = time.monotonic()
        self._under_way = 0

    def application(self) -> web.Application:
        app = web.Application(client_max_size=BODY_MAX_BYTES)
        app.router.add_post("/endpoints/{name}/invocations", self._invoke)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/metrics.json", self._metrics_json)
        app.router.add_get("/ping", self._ping)
        app.router.add_route("*", "/{path:.*}", self._unknown)
        return app

    async def _invoke(self, request: web.Request) -> web.Response:
        record = Record(round(time.monotonic() - self._began, 6), str(uuid.uuid4()))
        began = time.monotonic()
        self._under_way += 1
        try:
            response = await self._answer(request, record)
        except ApiError as error:
            if isinstance(error, ModelError):
                record.original_status = error.original_status
            response = self._refusal(error, record)
        except Exception:  # ours: the client is told so, and nothing else of the simulator suffers
            _log.exception("invocation.broke", request=record.id)
            response = self._refusal(InternalFailure("The simulator failed; its log has the traceback."), record)
        finally:
            self._under_way -= 1
        response.headers["x-amzn-RequestId"] = record.id
        record.status = response.status
        record.total_ms = (time.monotonic() - began) * 1e3
        self._record(record)
        return response

    async def _answer(self, request: web.Request, record: Record) -> web.Response:
        if self._under_way > INVOCATIONS_MAX:
            raise ServiceUnavailable(
                f"{INVOCATIONS_MAX} invocations are under way already, as many as a simulator takes."
            )
        name = request.match_info["name"]
        if name != self._platform.endpoint:
            raise ValidationError(f"Endpoint {name} of account {ACCOUNT} not found.")
        try:
            body = await asyncio.wait_for(request.read(), self._platform.rules.invocation_s)
        except web.HTTPRequestEntityTooLarge:
            raise BodyTooLarge(f"HTTP content length exceeded {BODY_MAX_BYTES} bytes.") from None
        except asyncio.TimeoutError:
            raise ValidationError("The request's body did not arrive in time.") from None
        record.request_bytes = len(body)
        answer = await self._platform.invoke(request.headers, body, record)
        record.answer_bytes = len(answer.body)
        fields = {key: answer.headers[key.lower()] for key in RETURNED if key.lower() in answer.headers}
        response = web.Response(status=200, body=answer.body, headers=fields)
        if "Content-Type" not in fields:
            del response.headers["Content-Type"]
        response.headers[VARIANT] = self._platform.variant
        return response

    def _refusal(self, error: ApiError, record: Record) -> web.Response:
        record.error = error.name
        _log.info("invocation.refused", request=record.id, model=record.model, error=error.name, message=error)
        return _json(error.document(), error.status, {"x-amzn-ErrorType": error.name})

    def _record(self, record: Record) -> None:
        metrics = self._platform.metrics
        original = record.original_status
        metrics.record("Invocations", 1)
        metrics.record("Invocation4XXErrors", int(original is not None and 400 <= original < 500))
        metrics.record("Invocation5XXErrors", int(original is not None and (original >= 500 or original == 0)))
        if record.model_ms:
            metrics.record("ModelLatency", record.model_ms * 1e3)
        metrics.record("OverheadLatency", (record.total_ms - record.model_ms) * 1e3)
        if record.found:
            metrics.record("ModelCacheHit", int(record.found == "hit"))
            if record.found != "hit":
                metrics.record("ModelLoadingWaitTime", record.wait_ms * 1e3)
        self._trace.write(record)

    async def _metrics(self, _: web.Request) -> web.Response:
        body = await asyncio.to_thread(self._platform.metrics.exposition)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _metrics_json(self, _: web.Request) -> web.Response:
        return _json(await asyncio.to_thread(self._platform.metrics.document))

    async def _ping(self, _: web.Request) -> web.Response:
        is_up = self._platform.container.is_in_service
        return _json({"EndpointStatus": "InService" if is_up else "Updating"}, 200 if is_up else 503)

    async def _unknown(self, request: web.Request) -> web.Response:
        message = (
            f"The simulator has no {request.method} {request.path}; it has POST /endpoints/"
            f"{self._platform.endpoint}/invocations, GET /metrics, /metrics.json and /ping."
        )
        return _json({"Message": message}, 404, {"x-amzn-ErrorType": "UnknownOperationException"})


def _json(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    body = json.dumps(document).encode()
    return web.Response(status=status, body=body, headers={"Content-Type": "application/json", **(headers or {})})
