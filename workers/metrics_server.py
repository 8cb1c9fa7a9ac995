"""The metrics of a worker process over HTTP, on a port of its own."""

from __future__ import annotations

import logging

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, start_http_server

from config.settings import Settings

logger = logging.getLogger(__name__)


def serve_metrics(settings: Settings, registry: CollectorRegistry) -> None:
    """Serve `registry` on PROMETHEUS_PORT; 0 serves nothing.

    A port that is taken stops no jobs: the worker says so and works on unseen.
    """
    if settings.prometheus_port == 0:
        return
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    try:
        start_http_server(settings.prometheus_port, settings.prometheus_host, registry)
    except OSError as error:
        logger.error(
            "metrics not served",
            extra={
                "action": "metrics_not_served",
                "port": settings.prometheus_port,
                "error": error.strerror,
            },
        )
