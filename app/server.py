"""Serving the API with granian."""

from __future__ import annotations

from granian.constants import Interfaces
from granian.server import Server

from config.settings import Settings

SHUTDOWN_SECONDS = 30


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then let the requests at hand end."""
    Server(
        "app.wsgi:app",
        address=settings.api_host,
        port=settings.api_port,
        interface=Interfaces.WSGI,
        workers=settings.api_workers,
        # A thread for each request that is held open (waits, streams); they are made on demand.
        blocking_threads=settings.api_threads,
        backpressure=settings.api_threads,
        backlog=max(1024, settings.api_threads),
        workers_kill_timeout=SHUTDOWN_SECONDS,
        respawn_failed_workers=True,
        log_access=False,
        websockets=False,
    ).serve()
