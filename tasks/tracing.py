"""Traces, as the rest of the product sees them.

Off (the default) every call here does nothing, and OpenTelemetry is not even imported: an API
process has no memory to give away. With TRACING=on `tasks/otel.py` does the work.

A message in Celery's queue names no job, so a trace cannot travel with it. It travels in the job's
record: the API writes the `traceparent` of its request there, and whoever claims the job goes on
from it. Prompts, answers and error texts are never part of a span.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

from config.settings import Settings

Kind = Literal["server", "client", "consumer", "internal"]
Value = str | int | float | bool | Sequence[str]
Attributes = Mapping[str, Value | None]  # None: not known, and left out


class Span:
    """A step of a trace; this one is recorded nowhere."""

    traceparent: str | None = None  # W3C; what continues this trace
    trace_id: str | None = None

    def add(self, attributes: Attributes) -> None:
        """Say more about the step."""

    def rename(self, name: str) -> None:
        """Give it a better name."""

    def fail(self, error_type: str) -> None:
        """It failed; `error_type` is one of a bounded set, never a text from outside."""

    def log_fields(self) -> dict[str, str]:
        """For `log_context`: what finds the trace of a log line."""
        return {} if self.trace_id is None else {"trace_id": self.trace_id}


NO_SPAN = Span()


class Tracing:
    """Where spans go; this one has no place for them."""

    on = False

    @contextmanager
    def span(
        self,
        name: str,
        kind: Kind = "internal",
        attributes: Attributes | None = None,
        *,
        parent: Mapping[str, str] | None = None,
    ) -> Iterator[Span]:
        """A step that takes as long as the block, within the one around it.

        `parent`: W3C headers (`traceparent`, `tracestate`) to go on from in its place; headers
        that say nothing begin a new trace. An exception marks the step as failed.
        """
        yield NO_SPAN

    def past(
        self,
        name: str,
        began_ms: int,
        ended_ms: int,
        attributes: Attributes | None = None,
        *,
        parent: Mapping[str, str] | None = None,
    ) -> Span:
        """A step that is over; times are milliseconds since 1970."""
        return NO_SPAN

    def outgoing_headers(self) -> dict[str, str]:
        """For a call to a provider: the trace, if TRACING_FORWARD says so."""
        return {}

    def close(self) -> None:
        """Send what has not been sent."""


NO_TRACING = Tracing()


def open_tracing(settings: Settings, service: str) -> Tracing:
    """The tracing of this process; `service` is its name in the traces."""
    if not settings.tracing:
        return NO_TRACING
    from tasks.otel import OpenTelemetry

    return OpenTelemetry.from_environment(service, forward=settings.tracing_forward)


def parent_headers(traceparent: str | None) -> dict[str, str]:
    """A record's `traceparent` as headers to go on from."""
    return {"traceparent": traceparent} if traceparent else {}
