"""What a webhook process starts with: `celery -A workers.webhooks.main worker`."""

from __future__ import annotations

from celery.signals import worker_init

import workers.heartbeat  # noqa: F401 - connects itself
from tasks.celery_app import celery_app
from workers.metrics_server import serve_metrics
from workers.webhooks.context import webhook_context

__all__ = ["celery_app"]


@worker_init.connect
def _show_metrics(**_: object) -> None:
    current = webhook_context()
    serve_metrics(current.settings, current.registry)
