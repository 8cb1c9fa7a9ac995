"""The command line of every kind of process, the same on a laptop and in a container."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from config.celery import (
    CONTROL_QUEUE,
    INFERENCE_QUEUES,
    SCALER_QUEUE,
    SYSTEM_QUEUE,
    WEBHOOK_QUEUE,
)
from config.settings import Settings

SCALER_CHILD_KILOBYTES = 400_000
SCALER_TICK_SECONDS = 120
CELERY = [sys.executable, "-m", "celery"]


def api_command() -> list[str]:
    """The HTTP API."""
    return [sys.executable, "-m", "app.cli", "api"]


def worker_command(
    settings: Settings, name: str, queues: Sequence[str] = (*INFERENCE_QUEUES, CONTROL_QUEUE)
) -> list[str]:
    """A worker that runs jobs on threads: they wait for providers nearly all the time."""
    return [
        *CELERY, "-A", "workers.main", "worker",
        "--pool", "threads",
        "--concurrency", str(settings.max_workers),
        "--queues", ",".join(queues),
        "--hostname", f"{name}@%h",
        "--loglevel", settings.log_level,
        # Workers need not know of each other: less traffic, and a start that waits for nobody.
        "--without-gossip", "--without-mingle",
    ]  # fmt: skip


def system_command(settings: Settings) -> list[str]:
    """The worker for housekeeping, apart from the others so that it is never busy with jobs."""
    return [
        *CELERY, "-A", "workers.main", "worker",
        "--pool", "threads",
        "--concurrency", "4",
        "--queues", SYSTEM_QUEUE,
        "--hostname", "system@%h",
        "--loglevel", settings.log_level,
        "--without-gossip", "--without-mingle",
    ]  # fmt: skip


def webhooks_command(settings: Settings) -> list[str]:
    """The worker that delivers webhooks, apart from the others: receivers may be slow."""
    return [
        *CELERY, "-A", "workers.webhooks.main", "worker",
        "--pool", "threads",
        "--concurrency", str(settings.webhook_concurrency),
        "--queues", WEBHOOK_QUEUE,
        "--hostname", "webhooks@%h",
        "--loglevel", settings.log_level,
        "--without-gossip", "--without-mingle",
    ]  # fmt: skip


def scaler_command(settings: Settings) -> list[str]:
    """The scaler's tick, in one child process, so that what forecasting takes can be given back."""
    return [
        *CELERY, "-A", "workers.scaler.main", "worker",
        "--pool", "prefork",
        "--concurrency", "1",
        # A child that grew beyond this is replaced after its tick; a tick that hangs is ended.
        "--max-memory-per-child", str(SCALER_CHILD_KILOBYTES),
        "--time-limit", str(SCALER_TICK_SECONDS),
        "--queues", SCALER_QUEUE,
        "--hostname", "scaler@%h",
        "--loglevel", settings.log_level,
        "--without-gossip", "--without-mingle",
    ]  # fmt: skip


def beat_command() -> list[str]:
    """The clock of the housekeeping tasks; a second one stands by."""
    return [sys.executable, "-m", "app.cli", "beat"]


def flower_command(port: int) -> list[str]:
    """Flower."""
    return [*CELERY, "-A", "app.flower", "flower", "--address=127.0.0.1", f"--port={port}"]
