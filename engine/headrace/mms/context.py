"""The second argument of a handler: the model, the requests of this call, and what is to be said in the answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from headrace.mms.metrics.metrics_store import MetricsStore

VERSION = "1.1.11"  # the release whose handlers' side this stands in for


class RequestProcessor:
    """One request's header fields, and the status and fields of its answer."""

    def __init__(self, request_header: Mapping[str, Any] | None = None) -> None:
        self._request: dict[str, Any] = dict(request_header or {})
        self._status_code = 200
        self._reason_phrase: str | None = None
        self._response: dict[str, str] = {}

    def get_request_property(self, key: str) -> Any:
        """A field by the client's own spelling; None when it sent none."""
        return self._request.get(key)

    def get_request_properties(self) -> dict[str, Any]:
        return self._request

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        self._status_code = code
        self._reason_phrase = reason_phrase

    def get_response_status_code(self) -> int:
        return self._status_code

    def get_response_status_phrase(self) -> str | None:
        return self._reason_phrase

    def add_response_property(self, key: str, value: str) -> None:
        self._response[key] = value

    def get_response_header(self, key: str) -> str | None:
        return self._response.get(key)

    def get_response_headers(self) -> dict[str, str]:
        return self._response


class Context:
    """One object for the whole life of a loaded model; what concerns requests is new in each call."""

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: Mapping[str, Any] | None,
        batch_size: int,
        gpu: int | None,
        mms_version: str = VERSION,
    ) -> None:
        self.model_name = model_name
        self.manifest = manifest
        self._system_properties: dict[str, Any] = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "MMS",
            "server_version": mms_version,
        }
        self.start_call([], [RequestProcessor()])

    def start_call(self, request_ids: Sequence[str], processors: list[RequestProcessor]) -> None:
        """Headrace's: forget the last call's requests; nothing of theirs carries over."""
        self.request_ids: dict[int, str] = dict(enumerate(request_ids))
        self.request_processor = processors
        self.metrics = MetricsStore(self.request_ids, self.model_name)

    @property
    def system_properties(self) -> dict[str, Any]:
        return self._system_properties

    def get_request_id(self, idx: int = 0) -> str | None:
        return self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> Any:
        return self.request_processor[idx].get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        return self.request_processor[idx].get_request_properties()

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        return self.request_processor[idx].get_response_header("content-type")

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.request_processor[idx].report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        for processor in self.request_processor:
            processor.report_status(code, phrase)

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        processor = self.request_processor[idx]
        return processor.get_response_status_code(), processor.get_response_status_phrase()

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self.request_processor[idx].add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        return self.request_processor[idx].get_response_headers()
