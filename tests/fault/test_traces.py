"""Which requests are traced, in which trace, and what a worker is told of it."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from rig import Rig, rigged, wait_until

from headrace.tracing import Tracer

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
UNSAMPLED = f"00-{TRACE}-{PARENT}-00"
ALL = (True, 1.0)
Spans = Callable[[int], Sequence[Any]]


@contextlib.contextmanager
def traced(sampling: tuple[bool, float] = ALL) -> Iterator[tuple[Rig, Spans]]:
    """A rig, and what gives its server spans once there are so many."""
    exporter = InMemorySpanExporter()
    tracer = Tracer(SimpleSpanProcessor(exporter), sampling)

    def spans(count: int) -> Sequence[Any]:
        def found() -> list[Any]:
            return [span for span in exporter.get_finished_spans() if span.kind is SpanKind.SERVER]

        wait_until(lambda: len(found()) >= count, f"not {count} spans")
        return found()

    with rigged() as rig:
        rig.exporter = exporter
        rig.call(rig.path.watch, tracer.tell, None, sampling, 1)
        yield rig, spans
    tracer.close(30)


def ask(rig: Rig, *lines: str, **answer: int) -> str:
    """One request with these field lines; its head as the worker got it."""
    client, peer = rig.connect(), rig.peers[0]
    client.post(b"12345", *lines)
    entry = peer.take()
    start = entry.start + entry.capacity - (entry.head_length + 63) // 64 * 64
    head = rig.memory[start : start + entry.head_length].decode("latin-1")
    peer.publish(entry, **({"started_ns": time.monotonic_ns(), "body_length": 5} | answer))
    assert client.answer()[0] == answer.get("status", 200)
    assert head.endswith("\r\n\r\n")
    assert head.count("\r\n\r\n") == 1
    return head


def passed_on(head: str) -> list[str]:
    return re.findall(r"\r\ntraceparent: ([^\r]*)", head, re.IGNORECASE)


def test_a_request_is_a_span_of_its_clients_trace_and_the_parent_of_what_its_handler_does() -> None:
    with traced() as (rig, spans):
        head = ask(rig, f"Traceparent:  {SAMPLED} ", "tracestate: a=1", "x: y", "tracestate: b=2", batch_rows=3)
        (span,) = spans(1)
        assert (span.name, span.kind) == ("POST /models/{model_name}/invoke", SpanKind.SERVER)
        assert f"{span.context.trace_id:032x}" == TRACE
        assert (f"{span.parent.span_id:016x}", span.parent.is_remote) == (PARENT, True)
        assert span.context.trace_state.to_header() == "a=1,b=2"
        own = f"00-{TRACE}-{span.context.span_id:016x}-01"
        assert head.count(SAMPLED.replace(PARENT, f"{span.context.span_id:016x}")) == head.count(own) == 1
        assert "Traceparent:  " + own + " \r\n" in head  # in its place, as it came
        phases = [child for child in rig.exporter.get_finished_spans() if child is not span]
        assert [child.name for child in phases] == ["parse", "queue", "batch", "compute", "write"]
        ends = [span.start_time]
        for child in phases:
            assert (child.parent.span_id, child.context.trace_id) == (span.context.span_id, span.context.trace_id)
            assert child.start_time == ends[-1]
            ends.append(child.end_time)
        assert ends == sorted(ends)
        assert ends[-1] == span.end_time
        assert dict(phases[3].attributes) == {"headrace.batch_rows": 3}
        found = dict(span.attributes)
        assert found.pop("client.port") in range(1, 65536)
        assert re.fullmatch(r"[0-9a-f]{8}-.*", found.pop("headrace.request_id"))
        assert found == {
            "http.request.method": "POST",
            "http.route": "/models/{model_name}/invoke",
            "http.response.status_code": 200,
            "http.request.body.size": 5,
            "http.response.body.size": 5,
            "url.path": "/models/m/invoke",
            "url.scheme": "http",
            "network.protocol.version": "1.1",
            "client.address": "127.0.0.1",
            "headrace.model": "m",
        }


def test_a_request_without_a_trace_begins_one_that_its_handler_sees() -> None:
    with traced() as (rig, spans):
        heads = [ask(rig, "x: y"), ask(rig)]
        found = spans(2)
        for head, span in zip(heads, found, strict=True):
            assert span.parent is None
            assert passed_on(head) == [f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"]
        assert found[0].context.trace_id != found[1].context.trace_id


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nonsense",
        SAMPLED[:-1],
        SAMPLED + "0",
        SAMPLED + "-00",  # version 00 ends here
        SAMPLED.upper(),
        SAMPLED.replace("-", "_"),
        "ff" + SAMPLED[2:],
        "0g" + SAMPLED[2:],
        SAMPLED[:-2] + "0x",
        SAMPLED.replace(TRACE, "0" * 32),
        SAMPLED.replace(PARENT, "0" * 16),
        SAMPLED.replace(TRACE, TRACE[:-1] + "g"),
        "cc" + SAMPLED[2:] + ".what",
    ],
)
def test_what_is_no_traceparent_begins_a_trace_and_goes_on_as_it_came(value: str) -> None:
    with traced() as (rig, spans):
        head = ask(rig, f"traceparent: {value}", "tracestate: a=1")
        (span,) = spans(1)
        assert span.parent is None
        assert f"{span.context.trace_id:032x}" != TRACE
        assert span.context.trace_state.to_header() == ""
        assert passed_on(head) == [value]


def test_two_traceparents_are_none() -> None:
    with traced() as (rig, spans):
        head = ask(rig, f"traceparent: {SAMPLED}", f"traceparent: {SAMPLED}")
        assert spans(1)[0].parent is None
        assert passed_on(head) == [SAMPLED, SAMPLED]


@pytest.mark.parametrize("value", ["cc" + SAMPLED[2:], "cc" + SAMPLED[2:] + "-what"])
def test_a_later_version_is_read_as_far_as_this_one_goes(value: str) -> None:
    with traced() as (rig, spans):
        ask(rig, f"traceparent: {value}")
        assert f"{spans(1)[0].parent.span_id:016x}" == PARENT


@pytest.mark.parametrize(
    ("sampling", "traceparent", "is_traced"),
    [
        ((True, 1.0), UNSAMPLED, False),
        ((True, 0.0), SAMPLED, True),
        ((True, 0.0), None, False),
        ((False, 1.0), UNSAMPLED, True),
        ((False, 0.0), SAMPLED, False),
        ((False, 0.64), SAMPLED, True),  # 0xa3ce929d0e0e4736 / 2^64 is 0.6398..., as every service of the trace decides
        ((False, 0.63), SAMPLED, False),
    ],
)
def test_a_parent_decides_unless_the_sampler_says_otherwise(
    sampling: tuple[bool, float], traceparent: str | None, is_traced: bool
) -> None:
    with traced(sampling) as (rig, spans):
        head = ask(rig, *([f"traceparent: {traceparent}"] if traceparent else []))
        if is_traced:
            (span,) = spans(1)
            assert passed_on(head) == [f"00-{TRACE}-{span.context.span_id:016x}-01"]
        else:
            assert passed_on(head) == ([traceparent] if traceparent else [])
    found = {f"{span.context.trace_id:032x}" for span in rig.exporter.get_finished_spans()}  # all: the tracer is closed
    assert (TRACE in found) == is_traced


def test_a_share_of_new_traces_is_sampled() -> None:
    with traced((True, 0.25)) as (rig, _):
        heads = [ask(rig) for _ in range(200)]
        assert 25 < sum(len(passed_on(head)) for head in heads) < 75  # always the same number: so is the seed


def test_failures_are_errors_and_a_client_that_left_is_one() -> None:
    with traced() as (rig, spans):
        ask(rig, status=503)
        client, peer = rig.connect(), rig.peers[0]
        client.post(b"12345")
        entry = peer.take()
        client.reset()
        failed, left = spans(2)
        peer.echo(entry)
        assert (failed.status.status_code, failed.attributes["error.type"]) == (StatusCode.ERROR, "503")
        assert failed.attributes["http.response.status_code"] == 503
        assert (left.status.status_code, left.attributes["error.type"]) == (StatusCode.UNSET, "client_gone")
        assert "http.response.status_code" not in left.attributes


def test_only_predictions_are_traced_and_those_of_no_model_too() -> None:
    with traced() as (rig, spans):
        client = rig.connect()
        for target in ("/ping", "/health/live", "/nothing", "/models/none/invoke"):
            client.send(f"GET {target} HTTP/1.1\r\nhost: t\r\ntraceparent: {SAMPLED}\r\n\r\n".encode())
            client.answer()
        (span,) = spans(1)
        assert span.attributes["url.path"] == "/models/none/invoke"
        assert (span.attributes["http.response.status_code"], "headrace.model" in span.attributes) == (404, False)
        assert span.status.status_code is StatusCode.UNSET
