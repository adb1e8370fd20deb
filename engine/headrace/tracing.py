"""Traces: what becomes of predictions, as spans that OpenTelemetry's SDK exports over OTLP.

    POST /models/{model_name}/invoke        from the head to the hand-over of the answer to the kernel
      parse                                 until the body's last byte
           queue                            until a worker takes it
                batch                       until its batch begins
                     compute                until the answer is there
                             write          until it is handed over

The frontend decides at a head whether its request is traced (ext/note.pxi), since only then need anything of it be
kept, and since the head that a worker gets says so; times are those that are taken anyway. Spans are made here, by a
thread, and sent by the SDK's own. With no endpoint set nothing of OpenTelemetry is imported, nor is it needed.

Source: W3C Trace Context, level 1; OpenTelemetry specification 1.x, "Environment variable specification"; semantic
conventions for HTTP spans (stable).
"""

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headrace import __version__, log
from headrace.handover import Handover

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

    from headrace._frontend import Note

WAITING_MOST = 4096  # notes of which no spans were made yet; some 4 MiB
SWITCH_S = 0.0005  # how long a thread may keep the loop from running: spans are made in Python
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SAMPLERS = {"always_on": 1.0, "always_off": 0.0, "traceidratio": None}
_DEFAULT_SAMPLER = "parentbased_always_on"


def start(environ: Mapping[str, str], logger: log.Log) -> "Tracer | None":
    """A Tracer as OTEL_* ask for it; None where they ask for none, or for what cannot be, which is then logged."""
    endpoint = next((name for name in _ENDPOINTS if environ.get(name)), None)
    exporters = environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if endpoint is None or environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporters == "none":
        return None
    protocol = next((name for name in _PROTOCOLS if environ.get(name)), None)
    if exporters != "otlp":
        logger.warning("tracing.off", why=f"OTEL_TRACES_EXPORTER={exporters} is not spoken here: otlp, or none")
        return None
    if protocol is not None and environ[protocol] != "http/protobuf":
        hint = "http/protobuf is (port 4318 of most collectors)"
        logger.warning("tracing.off", why=f"{protocol}={environ[protocol]} is not spoken here: {hint}")
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        hint = "pip install 'headrace[otel]', or unset it"
        logger.warning(
            "tracing.off", why=f"{endpoint} is set, and the extra that exports traces is not installed: {hint}"
        )
        logger.debug("tracing.missing", error=error)
        return None
    try:
        processor = BatchSpanProcessor(OTLPSpanExporter())
    except Exception as error:  # of the SDK's reading of its own variables
        logger.warning("tracing.off", why="OpenTelemetry refuses what its variables say", error=error)
        return None
    sampling = read_sampling(environ, logger)
    logger.info("tracing.on", endpoint=environ[endpoint], heeds_parents=sampling[0], share=sampling[1])
    sys.setswitchinterval(min(SWITCH_S, sys.getswitchinterval()))
    return Tracer(processor, sampling)


def read_sampling(environ: Mapping[str, str], logger: log.Log) -> tuple[bool, float]:
    """Of OTEL_TRACES_SAMPLER and _ARG: whether a parent's decision stands, and the share of other traces to sample.

    What they say that cannot be is as if it were not said, with a warning: the specification wants it so.
    """
    given = environ.get("OTEL_TRACES_SAMPLER") or _DEFAULT_SAMPLER
    name = given.removeprefix("parentbased_")
    if name not in _SAMPLERS:
        known = ", ".join((*_SAMPLERS, *(f"parentbased_{sampler}" for sampler in _SAMPLERS)))
        logger.warning("tracing.sampler", why=f"OTEL_TRACES_SAMPLER={given} is none of {known}", used=_DEFAULT_SAMPLER)
        return True, 1.0
    share = _SAMPLERS[name]
    if share is None:
        text = environ.get("OTEL_TRACES_SAMPLER_ARG") or "1"
        try:
            share = float(text)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            why = f"OTEL_TRACES_SAMPLER_ARG={text} is no number from 0 to 1"
            logger.warning("tracing.sampler", why=why, used=1.0)
            share = 1.0
    return given != name, share


class Tracer:
    """Makes spans of notes, and has *processor* send them. Needs the extra `otel`.

    sampling: as read_sampling() gives it.
    """

    def __init__(self, processor: "SpanProcessor", sampling: tuple[bool, float]) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        self.sampling = sampling
        resource = Resource.create()  # OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES
        if str(resource.attributes.get("service.name", "unknown_service")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "headrace"}))
        self._ids = _ids()
        # What comes here was sampled already.
        self._provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False, id_generator=self._ids)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("headrace", __version__)
        self._handover: Handover[Sequence[Note]] = Handover("tracing", self._make_spans, WAITING_MOST)

    @property
    def dropped(self) -> int:
        """Requests of which no spans were made, since there were too many."""
        return self._handover.dropped

    def tell(self, notes: Sequence["Note"]) -> None:
        """Have spans of these requests made."""
        self._handover.put(notes, len(notes), len(notes))

    def close(self, timeout_s: float) -> None:
        """Have what waits sent, as far as that takes no longer."""
        end_s = time.monotonic() + timeout_s
        if self._handover.close(timeout_s):
            # Not the SDK's own time-out, which it does not keep to (its issue 4568).
            end = threading.Thread(target=self._provider.shutdown, name="tracing-end", daemon=True)
            end.start()
            end.join(max(0.0, end_s - time.monotonic()))

    def _make_spans(self, notes: Sequence["Note"]) -> None:
        offset_ns = time.time_ns() - time.monotonic_ns()
        for note in notes:
            self._make(note, offset_ns)

    def _make(self, note: "Note", offset_ns: int) -> None:
        from opentelemetry import trace
        from opentelemetry.trace import SpanKind, Status, StatusCode

        self._ids.trace_id, self._ids.span_id = note.trace_id, note.span_id
        span = self._tracer.start_span(
            f"{_method(note)} {note.route}",
            _parent(note),
            SpanKind.SERVER,
            _attributes(note),
            start_time=note.arrival_ns + offset_ns,
        )
        inside = trace.set_span_in_context(span)
        for name, begin_ns, end_ns in _phases(note):
            attributes = {"headrace.batch_rows": note.batch_rows} if name == "compute" else None
            child = self._tracer.start_span(name, inside, attributes=attributes, start_time=begin_ns + offset_ns)
            child.end(end_ns + offset_ns)
        if note.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(note.sent_ns + offset_ns)


def _ids() -> Any:
    """A generator of ids that gives those which a request has already, then new ones for the spans below it."""
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        trace_id = span_id = 0

        def generate_trace_id(self) -> int:
            return self.trace_id

        def generate_span_id(self) -> int:
            given, self.span_id = self.span_id, 0
            return given or super().generate_span_id()

    return Ids()


def _parent(note: "Note") -> Any:
    """The context of the client's span; an empty one where there is none."""
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

    if not note.parent_id:
        return Context()
    state = TraceState.from_header([note.tracestate]) if note.tracestate else None
    parent = SpanContext(note.trace_id, note.parent_id, True, TraceFlags(note.parent_flags), state)
    return trace.set_span_in_context(NonRecordingSpan(parent), Context())


def _phases(note: "Note") -> list[tuple[str, int, int]]:
    """(name, beginning, end), as far as the request got, and a worker's only where they can be true."""
    phases = []
    if note.whole_ns:
        phases.append(("parse", note.arrival_ns, note.whole_ns))
    if note.finished_ns:
        phases.append(("queue", note.whole_ns, note.taken_ns))
        phases.append(("batch", note.taken_ns, note.started_ns))
        phases.append(("compute", note.started_ns, note.finished_ns))
        phases.append(("write", note.finished_ns, note.sent_ns))
    return phases


def _method(note: "Note") -> str:
    return "HTTP" if note.method in (None, "OTHER") else str(note.method)


def _attributes(note: "Note") -> dict[str, str | int]:
    """Those of the conventions for HTTP servers, then ours."""
    address, _, port = note.client.rpartition(":")
    found: dict[str, str | int] = {
        "http.request.method": "_OTHER" if _method(note) == "HTTP" else _method(note),
        "http.route": note.route or "",
        "url.path": note.path or "",
        "url.scheme": "https" if note.is_https else "http",
        "network.protocol.version": "1.0" if note.is_http10 else "1.1",
        "http.request.body.size": note.request_bytes,
        "http.response.body.size": note.response_bytes,
        "headrace.request_id": note.id,
    }
    if port.isdecimal():
        found["client.address"], found["client.port"] = address.strip("[]"), int(port)
    if note.status == 499:  # no answer was sent: the client was gone
        found["error.type"] = "client_gone"
    else:
        found["http.response.status_code"] = note.status
        if note.status >= 500:
            found["error.type"] = str(note.status)
    if note.model is not None:
        found["headrace.model"] = note.model
    if note.target_model is not None:
        found["headrace.target_model"] = note.target_model
    return found
