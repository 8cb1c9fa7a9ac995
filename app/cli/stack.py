"""`inferenceflow up`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.markup import escape

from app.cli.tokens import mint
from app.scopes import SCOPES
from app.stack.embedded import StackError
from app.stack.up import Stack, StackOptions

TOKEN_DAYS = 30
F = TypeVar("F", bound=Callable[..., Any])


def stack_options(function: F) -> F:
    """The options of every command that starts the stack."""
    for option in (
        click.option("--local-model/--no-local-model", default=True, show_default=True,
                     help="Serve a small language model on this machine."),
        click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True,
                     help="Worker processes."),
        click.option("--flower-port", default=5555, show_default=True),
        click.option("--model-port", default=8089, show_default=True),
        click.option("--redis-port", default=6399, show_default=True),
        click.option("--port", default=8000, show_default=True, help="Of the API."),
        click.option("--data", type=click.Path(path_type=Path), default=Path("var"),
                     show_default=True, help="Where Redis, the model and secrets are kept."),
    ):  # fmt: skip
        function = option(function)
    return function


@contextmanager
def running_stack(
    options: StackOptions, console: Console, *, tenant: str = "demo"
) -> Iterator[tuple[Stack, str]]:
    """A stack that is up, and a token for it; stopped at the end, whatever ends it."""
    stack: Stack | None = None

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        stack = Stack(options, console)
        stack.start()
        token = mint(
            stack.settings, user="me", tenant=tenant, role="admin",
            expires=timedelta(days=TOKEN_DAYS), scopes=SCOPES,
        )  # fmt: skip
        stack.announce(token)
        yield stack, token
    except StackError as error:
        console.print(f"[bold red]inferenceflow:[/] {escape(str(error))}", highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("\nstopping ...")
    finally:
        if stack is not None:
            stack.stop()


@click.command()
@stack_options
@click.option(
    "--exporter/--no-exporter",
    default=True,
    show_default=True,
    help="Serve Celery's metrics; installs celery-exporter on first use.",
)
@click.option("--exporter-port", default=9808, show_default=True)
def up(**options: Any) -> None:
    """Start everything on this machine: Redis, a model, API, workers, beat, Flower, exporter."""
    console = Console()
    with running_stack(StackOptions(**options), console) as (stack, token):
        console.print(
            f"\n[bold green]Ready.[/]  API {stack.url}   docs {stack.url}/docs   "
            f"console {stack.url}/console\n"
            f"Flower http://127.0.0.1:{stack.options.flower_port}   "
            f"user admin, password {stack.flower_password}\n"
            f"metrics {stack.url}/v1/metrics and monitoring/prometheus/local.yml\n\n"
            f"token ({TOKEN_DAYS} days): {token}\n\n"
            f"curl -s '{stack.url}/v1/inference?wait=30' \\\n"
            f"  -H 'Authorization: Bearer {token}' \\\n"
            "  -H 'Content-Type: application/json' \\\n"
            """  -d '{"prompt": "Once upon a time", "max_tokens": 40}'\n\n"""
            "Ctrl-C stops everything.\n",
            highlight=False,
            soft_wrap=True,
        )
        stack.watch()
