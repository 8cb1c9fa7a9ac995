"""What a worker process starts with: `celery -A workers.main worker`."""

from __future__ import annotations

from celery.signals import heartbeat_sent, worker_init, worker_ready

from config.settings import settings
from tasks.celery_app import celery_app
from workers.metrics_server import serve_metrics

__all__ = ["celery_app"]


@worker_ready.connect
@heartbeat_sent.connect
def _show_life(**_: object) -> None:
    """Touch the heartbeat file from the worker's own loop: it stays old when the loop hangs."""
    if (path := settings().heartbeat_file) is not None:
        path.touch()


@worker_init.connect
def _warm_up(**_: object) -> None:
    """Load models and catalogue before the first job, which would otherwise wait for them."""
    from workers.context import context

    current = context()
    serve_metrics(current.settings, current.registry)
