"""What a worker process starts with: `celery -A workers.main worker`."""

from __future__ import annotations

from celery.signals import worker_init

import workers.heartbeat  # noqa: F401 - connects itself
from tasks.celery_app import celery_app
from workers.metrics_server import serve_metrics

__all__ = ["celery_app"]


@worker_init.connect
def _warm_up(**_: object) -> None:
    """Load models and catalogue before the first job, which would otherwise wait for them."""
    from workers.context import context

    current = context()
    serve_metrics(current.settings, current.registry)
