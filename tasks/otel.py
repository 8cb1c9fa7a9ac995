"""Spans by OpenTelemetry. Imported only where TRACING is on (see tasks/tracing.py).

Where spans go, how many are kept and how they are batched is set by OpenTelemetry's own
environment variables: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS,
OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_SCHEDULE_DELAY.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.util import Finalize

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tasks.tracing import Attributes, Kind, Span, Tracing

KINDS = {
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "consumer": SpanKind.CONSUMER,
    "internal": SpanKind.INTERNAL,
}
_W3C = TraceContextTextMapPropagator()


class _Recorded(Span):
    """A span of OpenTelemetry."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._failed = False
        context = span.get_span_context()
        self.trace_id = trace.format_trace_id(context.trace_id)
        self.traceparent = (
            f"00-{self.trace_id}-{trace.format_span_id(context.span_id)}"
            f"-{int(context.trace_flags):02x}"
        )

    def add(self, attributes: Attributes) -> None:
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(name, value)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def fail(self, error_type: str) -> None:
        if self._failed:  # the first to say so knows best
            return
        self._failed = True
        self._span.set_attribute("error.type", error_type)
        self._span.set_status(Status(StatusCode.ERROR))


class OpenTelemetry(Tracing):
    """Makes spans and hands them to a TracerProvider."""

    on = True

    def __init__(self, provider: TracerProvider, *, forward: bool = False) -> None:
        """`forward`: send the trace's identity along to providers."""
        self._provider = provider
        self._tracer = provider.get_tracer("inferenceflow")
        self._forward = forward

    @classmethod
    def from_environment(cls, service: str, *, forward: bool = False) -> OpenTelemetry:
        """Send batches by OTLP over HTTP, from a thread; what nobody takes is dropped."""
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
        provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        # Not `atexit`: the API's processes are children of multiprocessing, which skip it.
        Finalize(None, provider.shutdown, exitpriority=0)
        return cls(provider, forward=forward)

    @contextmanager
    def span(
        self,
        name: str,
        kind: Kind = "internal",
        attributes: Attributes | None = None,
        *,
        parent: Mapping[str, str] | None = None,
    ) -> Iterator[Span]:
        """See `Tracing.span`."""
        started = self._tracer.start_span(name, _context(parent), KINDS[kind])
        span = _Recorded(started)
        span.add(attributes or {})
        # The text of an exception may repeat a prompt: its type alone is kept.
        with trace.use_span(
            started, end_on_exit=True, record_exception=False, set_status_on_exception=False
        ):
            try:
                yield span
            except BaseException as error:
                span.fail(type(error).__name__)
                raise

    def past(
        self,
        name: str,
        began_ms: int,
        ended_ms: int,
        attributes: Attributes | None = None,
        *,
        parent: Mapping[str, str] | None = None,
    ) -> Span:
        """See `Tracing.past`."""
        started = self._tracer.start_span(
            name, _context(parent), SpanKind.INTERNAL, start_time=began_ms * 1_000_000
        )
        span = _Recorded(started)
        span.add(attributes or {})
        started.end(end_time=ended_ms * 1_000_000)
        return span

    def outgoing_headers(self) -> dict[str, str]:
        """See `Tracing.outgoing_headers`."""
        headers: dict[str, str] = {}
        if self._forward:
            _W3C.inject(headers)
        return headers

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()


def _context(parent: Mapping[str, str] | None) -> Context | None:
    """None: the context of the thread."""
    return None if parent is None else _W3C.extract(parent, Context())
