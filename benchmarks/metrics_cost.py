"""What counting costs a job: microseconds of everything that a worker records for one answer.

python -m benchmarks.metrics_cost
"""

from __future__ import annotations

import time

import redis
from prometheus_client import CollectorRegistry

from tasks.inference import Attempt, Usage
from tasks.metrics import Metrics
from tasks.recent import Recent

JOBS = 20_000


class NoWriter(Recent):
    """Drops what was counted: the thread that writes it runs beside the jobs."""

    def flush(self) -> None:
        self._noted.clear()


def main() -> None:
    metrics = Metrics(NoWriter(redis.Redis(), "bench:"), registry=CollectorRegistry())
    usage = Usage(input_tokens=100, output_tokens=50)
    attempt = Attempt(provider="openai", model="m", status="ok", latency_ms=412.0)
    best = float("inf")
    for _ in range(5):
        began = time.thread_time()
        for number in range(JOBS):
            metrics.record_queue_wait("normal", 0.003 + number % 7)
            metrics.record_cache_event("miss")
            metrics.record_attempt(attempt)
            metrics.record_completion("acme", "openai", "m", usage, 0.001, None)
            metrics.record_job_end("succeeded", "normal")
            metrics.record_request_latency(0.4 + number % 5, "openai")
        best = min(best, time.thread_time() - began)
    print(f"{best / JOBS * 1e6:.1f} us a job")


if __name__ == "__main__":
    main()
