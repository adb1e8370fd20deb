"""One invocation: what SageMaker does between a client's request and its answer."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from headrace import log
from headrace.simulate.api_errors import ApiError, ModelError, ServiceUnavailable, ValidationError
from headrace.simulate.cloudwatch import Metrics
from headrace.simulate.container import Container
from headrace.simulate.model_api import Answer, AnswerTooLarge, Lost, ModelApi, invoke_path
from headrace.simulate.residency import Residency
from headrace.simulate.rules import BODY_MAX_BYTES, TARGET_MAX, Rules
from headrace.simulate.trace import Record

_log = log.get("simulate")

TARGET_MODEL = "X-Amzn-SageMaker-Target-Model"
# SageMaker strips all fields but those of the API (InvokeEndpoint, in the API reference).
FORWARDED = (
    "Content-Type",
    "Accept",
    "X-Amzn-SageMaker-Custom-Attributes",
    TARGET_MODEL,
    "X-Amzn-SageMaker-Target-Variant",
    "X-Amzn-SageMaker-Inference-Id",
    "X-Amzn-SageMaker-Enable-Explanations",
    "X-Amzn-SageMaker-Session-Id",
)
RETURNED = (
    "Content-Type",
    "X-Amzn-SageMaker-Custom-Attributes",
    "X-Amzn-SageMaker-New-Session-Id",
    "X-Amzn-SageMaker-Closed-Session-Id",
)
# What addresses something that an endpoint with one container, of one variant, has not.
_ELSEWHERE = {
    "X-Amzn-SageMaker-Target-Container-Hostname": "TargetContainerHostname is for endpoints of several containers",
    "X-Amzn-SageMaker-Inference-Component": "InferenceComponentName is for endpoints of inference components",
}


@dataclass(frozen=True, slots=True)
class Platform:
    """models: of an endpoint for many models; None: the container has one, and answers at /invocations."""

    endpoint: str
    variant: str
    api: ModelApi
    container: Container
    models: Residency | None
    rules: Rules
    metrics: Metrics
    clock: Callable[[], float]

    async def invoke(self, headers: Mapping[str, str], body: bytes, record: Record) -> Answer:
        """The container's good answer. Raises ApiError for everything else. record: filled in as it goes."""
        deadline = self.clock() + self.rules.invocation_s
        target = self._target(headers)
        record.model = target
        if not self.container.is_in_service:
            raise ServiceUnavailable(f"The container of endpoint {self.endpoint} is not in service; try again.")
        fields = {name: headers[name] for name in FORWARDED if name in headers}
        if self.models is None:
            return await self._ask("/invocations", body, fields, deadline, record)
        try:
            async with self.models.use(target, deadline, record) as name:
                return await self._ask(invoke_path(name), body, fields, deadline, record)
        finally:
            record.loaded = self.models.loaded_count

    def _target(self, headers: Mapping[str, str]) -> str:
        """TargetModel; empty on an endpoint for one model. Raises ValidationError."""
        target = headers.get(TARGET_MODEL, "")
        for name, text in _ELSEWHERE.items():
            if name in headers:
                raise ValidationError(f"{text}; endpoint {self.endpoint} has one container.")
        variant = headers.get("X-Amzn-SageMaker-Target-Variant", self.variant)
        if variant != self.variant:
            raise ValidationError(
                f"Variant {variant!r} is not in endpoint {self.endpoint}, whose one is {self.variant}."
            )
        if self.models is None and target:
            raise ValidationError(f"Endpoint {self.endpoint} is not a multi-model endpoint: leave out TargetModel.")
        if self.models is not None and not target:
            raise ValidationError(f"Endpoint {self.endpoint} is a multi-model endpoint: TargetModel is missing.")
        if len(target) > TARGET_MAX:
            raise ValidationError(f"TargetModel has {len(target)} characters, at most {TARGET_MAX} may be.")
        return target

    async def _ask(self, path: str, body: bytes, fields: Mapping[str, str], deadline: float, record: Record) -> Answer:
        """The container's answer. One of 507 is asked for again as long as another model can go for it."""
        while True:
            began = self.clock()
            try:
                answer = await self.api.invoke(path, body, fields, max(0.001, deadline - began))
            except asyncio.TimeoutError:
                raise self._failed(record, 0, f"no answer came within {self.rules.invocation_s:g} s") from None
            except Lost as error:
                raise self._failed(record, 0, f"the connection to the container was lost: {error}") from None
            except AnswerTooLarge:
                raise self._failed(record, 0, f"the answer is larger than {BODY_MAX_BYTES} bytes") from None
            finally:
                record.model_ms += (self.clock() - began) * 1e3
            if answer.status == 507 and self.models is not None:
                room = self.models.make_room(f"507 to an invocation of {record.model}")
                try:
                    if await asyncio.wait_for(room, max(0.001, deadline - self.clock())):
                        continue
                except asyncio.TimeoutError:
                    pass
            record.original_status = answer.status
            if not answer.is_good:
                raise self._failed(record, answer.status, answer.text)
            return answer

    def _failed(self, record: Record, status: int, message: str) -> ApiError:
        record.original_status = status
        return ModelError(status, message, self.endpoint)
