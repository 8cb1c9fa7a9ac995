"""`inferenceflow demo`: the main job before your eyes, with real tokens."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from app.cli.jobs import ENDED, print_job
from app.cli.stack import running_stack, stack_options
from app.client import Client, ClientError, Target
from app.stack.up import StackOptions

# The local model is a base model of 270 million parameters: real tokens, poor answers. A stop
# sequence makes it end by itself, as only complete answers are cached.
BASE = {"max_tokens": 60, "stop": ["\n", "."], "temperature": 0, "seed": 7}
PROMPTS = [
    ("high", "What is the capital of France?"),
    ("normal", "How do I reset my password?"),
    ("normal", "Write one line about the sea."),
    ("low", "Name three colours of autumn leaves."),
    ("low", "Explain in one sentence what a queue is."),
]
REPEATED = PROMPTS[1][1]
PARAPHRASE = "How can I reset my password?"
LIMIT_SECONDS = 180.0
WAIT_SECONDS = 30.0


@click.command()
@stack_options
def demo(**options: Any) -> None:
    """Start everything, send real prompts through it, show the answers, and stop."""
    console = Console()
    console.print("[bold]Starting Redis, a language model, API, workers, beat and Flower ...[/]")
    quiet = replace(StackOptions(**options), quiet=True)
    # A tenant of its own: what an earlier demo left in the cache is another tenant's.
    tenant = f"demo-{secrets.token_hex(4)}"
    with running_stack(quiet, console, tenant=tenant) as (stack, token):
        try:
            _show(console, Client(Target(stack.url, token)))
        except ClientError as error:
            raise click.ClickException(str(error)) from None
        console.print("\n[bold green]Done.[/] `make run` keeps it up; the docs are in docs/.")


def _show(console: Console, client: Client) -> None:
    console.print("\n[bold]1. Prompts at three priorities, through the queues to the model[/]\n")
    jobs = [
        client.submit({**BASE, "prompt": prompt, "priority": priority})
        for priority, prompt in PROMPTS
    ]
    for (_, prompt), job in zip(PROMPTS, _follow(console, client, jobs), strict=True):
        console.print(f"\n[cyan]{escape(prompt)}[/]", highlight=False)
        print_job(console, job)
        _expect(job, job["state"] == "succeeded", "the job did not succeed")
    console.print("\n[bold]2. The same again: the exact cache answers[/]\n")
    _again(console, client, REPEATED, "exact")
    console.print("\n[bold]3. In other words: the semantic cache answers[/]\n")
    _again(console, client, PARAPHRASE, "semantic")


def _again(console: Console, client: Client, prompt: str, layer: str) -> None:
    job = client.submit({**BASE, "prompt": prompt}, wait=WAIT_SECONDS)
    console.print(f"[cyan]{escape(prompt)}[/]", highlight=False)
    print_job(console, job)
    hit = (job["result"] or {}).get("cache") or {}
    _expect(job, hit.get("layer") == layer, f"the {layer} cache did not answer")


def _expect(job: dict[str, Any], true: bool, otherwise: str) -> None:
    if not true:
        raise ClientError(f"{otherwise}: {job['id']} {job['state']} {job['error'] or ''}")


def _follow(
    console: Console, client: Client, jobs: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Wait for all jobs at once, drawing how they stand."""
    newest = {job["id"]: job for job in jobs}
    end = time.monotonic() + LIMIT_SECONDS
    with (
        ThreadPoolExecutor(len(jobs)) as pool,
        Live(_table(newest), console=console, refresh_per_second=8) as live,
    ):
        while any(job["state"] not in ENDED for job in newest.values()):
            if time.monotonic() > end:
                raise ClientError(f"not done within {LIMIT_SECONDS:.0f} s")
            waiting = [key for key, job in newest.items() if job["state"] not in ENDED]
            for job in pool.map(lambda job_id: client.job(job_id, wait=0.5), waiting):
                newest[job["id"]] = job
            live.update(_table(newest))
    yield from newest.values()


def _table(jobs: dict[str, dict[str, Any]]) -> Table:
    table = Table("job", "priority", "state", "place", "provider time")
    for job in jobs.values():
        colour = {"succeeded": "green", "failed": "red", "running": "yellow"}.get(
            job["state"], "white"
        )
        table.add_row(
            job["id"][:12],
            job["priority"],
            f"[{colour}]{job['state']}[/]",
            str(job["queue_position"] or ""),
            f"{job['timing']['provider_ms']} ms" if job["state"] in ENDED else "",
        )
    return table
