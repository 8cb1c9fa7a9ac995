"""`inferenceflow scaler`: what it decided, holding it, and replaying a trace."""

from __future__ import annotations

import os
import sys
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli.jobs import connect, target_options
from app.client import ClientError

PATH = "/v1/scaler"


@click.group()
def scaler() -> None:
    """How many workers there shall be, and why."""


def _call(
    target: dict[str, Any], method: str, path: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    client = connect(target["url"], target["token"], target["data"])
    try:
        return client.call(method, path, body=body)
    except ClientError as error:
        raise click.ClickException(str(error)) from None


@scaler.command()
@click.option("--json", "as_json", is_flag=True, help="Everything, as the API gives it.")
@target_options
def status(as_json: bool, **target: Any) -> None:
    """The last decision for each queue."""
    state = _call(target, "GET", PATH)
    console = Console()
    if as_json:
        console.print_json(data=state)
        return
    if state["paused"]:
        paused = state["paused"]
        console.print(f"paused by {escape(paused['by'])}: {escape(paused['reason'])}")
    if not state["queues"]:
        console.print("no decision yet")
        return
    table = Table("queue", "mode", "trust", "asked for", "ready", "wanted", "reason")
    for queue, one in state["queues"].items():
        ready = one["replicas"]["ready"] if one["replicas"] else None
        row = (queue, one["mode"], one["level"], one["before"], ready, one["after"], one["reason"])
        table.add_row(*("-" if value is None else str(value) for value in row))
    console.print(table)


@scaler.command()
@click.argument("reason")
@target_options
def pause(reason: str, **target: Any) -> None:
    """Let it change nothing, for REASON. Needs a token with the scope `platform`."""
    _call(target, "POST", f"{PATH}/pause", {"reason": reason})
    click.echo("paused: it decides, and changes nothing")


@scaler.command()
@target_options
def resume(**target: Any) -> None:
    """End a pause. Needs a token with the scope `platform`."""
    _call(target, "POST", f"{PATH}/resume")
    click.echo("resumed")


@scaler.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def simulate(arguments: tuple[str, ...]) -> None:
    """Replay TRACE and compare ways to scale: [--cold-start S] [--json] [--plot PATH]."""
    # Forecasts and plots are the workers': this process must not load what they need.
    command = [sys.executable, "-m", "workers.scaler.simulate", *arguments]
    os.execv(command[0], command)  # noqa: S606 - our own program
