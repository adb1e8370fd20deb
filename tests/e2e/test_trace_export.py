"""Traces of a real server, as a collector gets them over OTLP, and as its handlers see them."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import Serve, wait_until, write_model
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
NATIVE = """
from headrace import Model
class Native(Model):
    def handle(self, requests):
        return [request.headers["traceparent"].encode() for request in requests]
"""
HANDLER = """
def handle(data, context):
    if data is not None:
        return [context.get_request_header(index, "traceparent") for index in range(len(data))]
"""


class Collector:
    """What a collector's /v1/traces was sent."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                is_right = self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf"
                if is_right:
                    collector.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200 if is_right else 400)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def spans(self) -> list[Span]:
        scopes = [scope for sent in self.requests for resource in sent.resource_spans for scope in resource.scope_spans]
        return [span for scope in scopes for span in scope.spans]

    def servers(self) -> list[Span]:
        return [span for span in self.spans() if span.kind == Span.SPAN_KIND_SERVER]

    def service(self) -> str:
        attributes = self.requests[0].resource_spans[0].resource.attributes
        return next(item.value.string_value for item in attributes if item.key == "service.name")

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def test_a_collector_gets_the_spans_and_handlers_the_trace(serve: Serve, tmp_path: Path, collector: Collector) -> None:
    handler = tmp_path / "handler"
    (handler / "MAR-INF").mkdir(parents=True)
    (handler / "service.py").write_text(HANDLER)
    manifest = {"model": {"modelName": "handler", "handler": "service:handle"}}
    (handler / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    server = serve(
        write_model(tmp_path / "native", NATIVE),
        f"handler={handler}",
        HEADRACE_WORKERS="1",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_SERVICE_NAME="shop",
        OTEL_BSP_SCHEDULE_DELAY="60000",  # the first ones are sent when the server ends
    )
    seen = {}
    for path in ("/models/native/invoke", "/predictions/handler"):
        answer = server.post(path, b"1", traceparent=f"00-{TRACE}-{PARENT}-01")
        assert answer.status == 200, answer.body
        seen[path] = answer.body.decode()
    assert server.post("/models/native/invoke", b"1", traceparent=f"00-{TRACE}-{PARENT}-00").status == 200
    fresh = server.post("/models/native/invoke", b"1").body.decode()
    assert server.stop() == 0
    wait_until(lambda: len(collector.servers()) == 3, "not all spans were sent")
    assert collector.service() == "shop"
    for span in collector.servers():
        path = next(item.value.string_value for item in span.attributes if item.key == "url.path")
        is_new = not span.parent_span_id
        told = fresh if is_new else seen[path]
        assert told == f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01"
        assert (span.trace_id.hex() == TRACE, span.parent_span_id.hex()) == ((False, "") if is_new else (True, PARENT))
        below = [child.name for child in collector.spans() if child.parent_span_id == span.span_id]
        assert below == ["parse", "queue", "batch", "compute", "write"]
    assert sorted(span.name for span in collector.servers()) == [
        "POST /models/{model_name}/invoke",
        "POST /models/{model_name}/invoke",
        "POST /predictions/{model_name}",
    ]


def test_a_collector_that_is_not_there_holds_nothing_up(serve: Serve, tmp_path: Path) -> None:
    server = serve(
        write_model(tmp_path / "native", NATIVE),
        HEADRACE_WORKERS="1",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        OTEL_BSP_SCHEDULE_DELAY="10",
    )
    assert server.post("/models/native/invoke", b"1").status == 200
    wait_until(lambda: "logger=opentelemetry" in server.log, "the log does not say that nothing can be sent")
    assert server.post("/models/native/invoke", b"1").status == 200
    assert server.stop() == 0
