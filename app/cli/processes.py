"""One process at a time, as a container runs them."""

from __future__ import annotations

import os
import sys
import tempfile

import click

from app.stack.processes import (
    scaler_command,
    system_command,
    webhooks_command,
    worker_command,
)
from config.settings import settings


@click.command()
def api() -> None:
    """Serve the HTTP API."""
    if settings().api_workers > 1 and "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        # Read by prometheus-client when it is imported, which has happened here.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="inferenceflow-metrics-")
    os.execv(sys.executable, [sys.executable, "-m", "app.server"])  # noqa: S606 - our own


@click.command()
@click.option("--name", default="worker", show_default=True)
@click.option("--queues", default=None, help="Comma separated; all inference queues by default.")
@click.option("--system", is_flag=True, help="Do the housekeeping instead of jobs.")
@click.option("--webhooks", is_flag=True, help="Deliver webhooks instead of running jobs.")
@click.option("--scaler", is_flag=True, help="Size the workers instead of running jobs.")
def worker(name: str, queues: str | None, system: bool, webhooks: bool, scaler: bool) -> None:
    """Run a worker."""
    current = settings()
    if scaler:
        command = scaler_command(current)
    elif webhooks:
        command = webhooks_command(current)
    elif system:
        command = system_command(current)
    elif queues:
        command = worker_command(current, name, queues.split(","))
    else:
        command = worker_command(current, name)
    os.execv(command[0], command)  # noqa: S606 - our own command line


@click.command()
def beat() -> None:
    """Run the clock of the housekeeping tasks; a second one stands by."""
    from app.beat import run_beat

    run_beat(settings())
