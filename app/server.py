"""Serving the API with granian."""

from __future__ import annotations

import os
import shutil

from granian.constants import Interfaces
from granian.server import Server

from config.settings import Settings, settings

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


def main() -> None:
    """Serve in a process that has imported nothing of prometheus-client yet (app/observing.py)."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    try:
        serve(settings())
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
