"""The sign of life of a worker process."""

from __future__ import annotations

from celery.signals import heartbeat_sent, worker_ready

from config.settings import settings


@worker_ready.connect
@heartbeat_sent.connect
def _show_life(**_: object) -> None:
    """Touch the heartbeat file from the worker's own loop: it stays old when the loop hangs."""
    if (path := settings().heartbeat_file) is not None:
        path.touch()
