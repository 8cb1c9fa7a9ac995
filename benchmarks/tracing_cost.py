"""What traces cost a job: microseconds of a worker's CPU for the spans of one run, off and on.

python -m benchmarks.tracing_cost
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from tasks.inference import GenerationParams, Usage
from tasks.otel import OpenTelemetry
from tasks.tracing import NO_TRACING, Tracing, parent_headers
from workers.providers.base import Completion
from workers.providers.genai import answered, asked

JOBS = 5_000


class Nowhere(SpanExporter):
    """Takes spans and sends none: the thread that sends them runs beside the jobs."""

    def export(self, _spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def run(tracing: Tracing) -> None:
    """The spans of one run (see workers/runner.py)."""
    about = {"inferenceflow.job.id": "job_1", "inferenceflow.tenant": "acme"}
    waited = tracing.past("queue wait", 1_000, 2_000, about, parent=parent_headers(None))
    parent = parent_headers(waited.traceparent)
    with tracing.span("run normal", "consumer", about, parent=parent) as job:
        with tracing.span("cache lookup") as lookup:
            lookup.add({"inferenceflow.cache.layer": "none"})
        params = GenerationParams(max_tokens=100)
        call = asked("openai", "openai", "https://api.example/v1", "m", params, False)
        with tracing.span("chat m", "client", call) as span:
            usage = Usage(input_tokens=100, output_tokens=50)
            span.add(answered(Completion("text", "openai", "m", "stop", usage, 0.4)))
        job.add({"inferenceflow.job.state": "succeeded"})


def main() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    for name, tracing in (("off", NO_TRACING), ("on", OpenTelemetry(provider))):
        best = float("inf")
        for _ in range(3):
            began = time.thread_time()
            for _ in range(JOBS):
                run(tracing)
            best = min(best, time.thread_time() - began)
        print(f"{name}: {best / JOBS * 1e6:.0f} us a job")
    provider.shutdown()


if __name__ == "__main__":
    main()
