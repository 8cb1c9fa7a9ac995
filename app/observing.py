"""What the API counts of itself, and how it serves metrics.

With several API processes (API_WORKERS) all share one port, so each scrape reaches any of them:
prometheus-client then keeps the numbers in files of PROMETHEUS_MULTIPROC_DIR, which `app.server`
sets, and whoever is asked adds them up.
"""

from __future__ import annotations

import os
import time

from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry, GCCollector, Histogram, ProcessCollector
from prometheus_client.multiprocess import MultiProcessCollector

from app.services import Services
from tasks.state_metrics import StateCollector

DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 20, 60, 600)


class HttpMetrics:
    """The duration of every request, by route; and the registry that is served."""

    def __init__(self, services: Services) -> None:
        self.registry = CollectorRegistry()
        shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self._duration = Histogram(
            "inferenceflow_http_request_duration_seconds",
            "Of requests to the API; a request that waits for its answer takes as long as that.",
            ["method", "route", "code"],
            registry=None if shared else self.registry,
            buckets=DURATION_BUCKETS,
        )
        if shared:
            MultiProcessCollector(self.registry)  # type: ignore[no-untyped-call]
        else:
            ProcessCollector(registry=self.registry)
            GCCollector(registry=self.registry)
        targets = {
            (offer.provider, offer.model)
            for model in services.catalogue.models
            for offer in model.offers
        }
        self.targets = sorted(targets)
        self.registry.register(
            StateCollector(
                services.job_redis,
                services.cache_redis,
                services.settings.key_prefix,
                self.targets,
            )
        )

    def begin(self) -> None:
        """A request begins."""
        g.began = time.perf_counter()

    def finish(self, response: Response) -> Response:
        """It was answered (a stream: its headers were)."""
        route = request.url_rule.rule if request.url_rule is not None else "none"
        self._duration.labels(request.method, route, str(response.status_code)).observe(
            time.perf_counter() - g.began
        )
        return response


def init_observing(app: Flask, services: Services) -> None:
    """Count every request of `app`."""
    metrics = HttpMetrics(services)
    app.extensions["inferenceflow.metrics"] = metrics
    app.before_request(metrics.begin)
    app.after_request(metrics.finish)
