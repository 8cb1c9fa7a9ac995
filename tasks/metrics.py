"""What a process counts for Prometheus, and the names it counts under.

Every process has one `Metrics` with a registry of its own. What can be read from Redis as it
stands (queues, job totals, breakers, memory) is not counted here: `tasks/state_metrics.py` reads
it at each scrape. `docs/operations.md` says which process serves what.
"""

from __future__ import annotations

import threading
from typing import Any, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram

from tasks.inference import Attempt, Usage
from tasks.recent import Recent

# Up to the longest deadlines: a job may wait for minutes.
LATENCY_BUCKETS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60, 120, 300, 600, 1800,
)  # fmt: skip
OTHER = "other"
CACHE = "cache"  # the provider of an answer that no provider was asked for
# Attempts that did not reach the provider are no errors of it.
NOT_CALLED = frozenset({"ok", "cancelled"})


M = TypeVar("M", Counter, Histogram)


class _Labelled(Generic[M]):
    """A metric's children by label values, found without the checks of `labels`."""

    def __init__(self, metric: M) -> None:
        self._metric: M = metric
        self._children: dict[tuple[str, ...], M] = {}

    def __call__(self, *values: str) -> M:
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._metric.labels(*values)
        return child


class Metrics:
    """The counters and histograms of one process. Thread-safe."""

    def __init__(
        self, recent: Recent, *, registry: CollectorRegistry | None, tenants: int = 50
    ) -> None:
        """`registry`: None where processes share files (app/observing.py).

        `tenants`: how many get a label of their own in this process; the rest are `other`.
        Label sets stay bounded: providers and models come from the catalogue, error types from
        the providers' error classes.
        """
        self._recent = recent
        self._tenants: set[str] = set()
        self._most_tenants = tenants
        self._lock = threading.Lock()

        def counter(name: str, text: str, *labels: str) -> _Labelled[Counter]:
            return _Labelled(Counter(f"inferenceflow_{name}", text, labels, registry=registry))

        def histogram(name: str, text: str, *labels: str) -> _Labelled[Histogram]:
            return _Labelled(
                Histogram(
                    f"inferenceflow_{name}",
                    text,
                    labels,
                    registry=registry,
                    buckets=LATENCY_BUCKETS,
                )
            )

        self._latency = histogram(
            "request_duration_seconds", "From acceptance to the answer.", "provider"
        )
        self._wait = histogram(
            "queue_wait_seconds", "From acceptance until a worker took the job.", "priority"
        )
        self._deferred = counter(
            "worker_deferrals", "Runs put off: for capacity, another's answer, a retry.", "why"
        )
        self._refused = Counter(
            "inferenceflow_lease_losses",
            "Results refused because the lease was lost.",
            registry=registry,
        )
        self._calls = histogram(
            "provider_call_duration_seconds", "Of one provider call.", "provider", "model"
        )
        self._first_token = histogram(
            "time_to_first_token_seconds", "Of a streamed provider call.", "provider", "model"
        )
        self._errors = counter(
            "provider_errors", "Provider calls that failed.", "provider", "error_type"
        )
        self._tokens = counter(
            "tokens", "Tokens that providers read and wrote.", "tenant", "provider", "model", "kind"
        )
        self._cost = counter(
            "cost_dollars", "What providers charge.", "tenant", "provider", "model"
        )
        self._lookups = counter("cache_lookups", "Cache lookups by outcome.", "layer", "verdict")
        self._cache_failures = counter("cache_failures", "Cache Redis did not answer.", "operation")
        self._flights = counter(
            "single_flight_joins", "Requests served by another's provider call.", "outcome"
        )
        self._fallbacks = Counter(
            "inferenceflow_router_fallbacks",
            "Router questions answered without the shared state.",
            registry=registry,
        )

    def record_request_latency(self, latency: float, provider: str) -> None:
        """An answer: seconds from acceptance, and who gave it (`cache`: nobody was asked)."""
        self._latency(provider).observe(latency)
        self._recent.latency("latency", latency)
        self._recent.latency(f"latency:{provider}", latency)

    def increment_cache_hit(self, layer: str = "exact") -> None:
        """A lookup that found an answer; `layer` is `exact` or `semantic`."""
        self._lookups(layer, "hit").inc()
        self._recent.count(f"cache:{layer}")

    def record_provider_error(self, provider: str, error_type: str) -> None:
        """A provider call that failed; `error_type` as in `workers/providers/errors.py`."""
        self._errors(provider, error_type).inc()
        self._recent.count(f"error:{provider}:{error_type}")

    def get_performance_summary(self) -> dict[str, Any]:
        """P50, P95, P99 and counts of the last 5 minutes, hour and day, of all processes.

        The body of `GET /v1/stats`. Raises redis.RedisError.
        """
        return self._recent.summary()

    def record_queue_wait(self, priority: str, seconds: float) -> None:
        """A job was taken for the first time."""
        self._wait(priority).observe(seconds)
        self._recent.latency(f"wait:{priority}", seconds)

    def record_job_end(self, state: str, priority: str) -> None:
        """A job ended here."""
        self._recent.count(f"ended:{state}")
        self._recent.count(f"lane:{priority}")

    def record_deferral(self, why: str) -> None:
        """A job was put off: `retry` (it used up an attempt) or `wait`."""
        self._deferred(why).inc()

    def record_lease_loss(self) -> None:
        """A result came too late: the job belongs to another worker, or has ended."""
        self._refused.inc()

    def record_attempt(self, attempt: Attempt) -> None:
        """A provider call, as the router's `on_attempt` tells it."""
        seconds = (attempt.latency_ms or 0.0) / 1000.0
        self._calls(attempt.provider, attempt.model).observe(seconds)
        if attempt.status not in NOT_CALLED:
            self.record_provider_error(attempt.provider, attempt.status)

    def record_completion(
        self,
        tenant: str,
        provider: str,
        model: str,
        usage: Usage,
        cost: float,
        first_token_seconds: float | None,
    ) -> None:
        """What a provider's answer took and cost (US dollars), kept or not: it has to be paid."""
        who = self._tenant(tenant)
        self._tokens(who, provider, model, "input").inc(usage.input_tokens)
        self._tokens(who, provider, model, "output").inc(usage.output_tokens)
        self._cost(who, provider, model).inc(cost)
        if first_token_seconds is not None:
            self._first_token(provider, model).observe(first_token_seconds)

    def record_cache_event(self, event: str) -> None:
        """As `SemanticCache(on_event=...)` tells it."""
        kind, _, what = event.partition("_")
        if kind == "hit":
            self.increment_cache_hit(what)
        elif kind == "miss":
            self._lookups("all", "miss").inc()
            self._recent.count("cache:miss")
        elif kind in ("veto", "skipped"):
            self._lookups("semantic", event).inc()
        else:
            self._cache_failures(what).inc()

    def record_flight(self, outcome: str) -> None:
        """A request that joined another's call: `waited` for it, or `landed` with its answer."""
        self._flights(outcome).inc()

    def record_router_fallback(self) -> None:
        """As `SharedState(on_fallback=...)` tells it."""
        self._fallbacks.inc()

    def _tenant(self, tenant: str) -> str:
        if tenant in self._tenants:
            return tenant
        with self._lock:
            if len(self._tenants) >= self._most_tenants:
                return OTHER
            self._tenants.add(tenant)
            return tenant


class WebhookMetrics:
    """What a process that delivers webhooks counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._deliveries = Counter(
            "inferenceflow_webhook_deliveries",
            "Attempts to deliver a webhook.",
            ["outcome"],
            registry=registry,
        )
        self._seconds = Histogram(
            "inferenceflow_webhook_duration_seconds",
            "Of one attempt to deliver.",
            registry=registry,
            buckets=LATENCY_BUCKETS,
        )

    def record_webhook_delivery(self, outcome: str, seconds: float) -> None:
        """One attempt: `delivered`, `retry`, `failed` (given up) or `gone`."""
        self._deliveries.labels(outcome).inc()
        self._seconds.observe(seconds)
