"""Submitting and looking at jobs from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.client import Client, ClientError, find_target
from tasks.inference import Priority

MAX_WAIT_SECONDS = 30.0  # of one call; longer waits ask again
F = TypeVar("F", bound=Callable[..., Any])
ENDED = frozenset({"succeeded", "failed", "cancelled", "expired"})


def target_options(function: F) -> F:
    """Where the API is."""
    for option in (
        click.option("--data", type=click.Path(path_type=Path), default=Path("var"), hidden=True),
        click.option("--token", help="INFERENCEFLOW_TOKEN, or a stack running here."),
        click.option("--url", help="INFERENCEFLOW_URL, or a stack running here."),
    ):
        function = option(function)
    return function


def connect(url: str | None, token: str | None, data: Path) -> Client:
    """A client for the options above. Raises click.ClickException."""
    try:
        return Client(find_target(url, token, data))
    except ClientError as error:
        raise click.ClickException(str(error)) from None


@click.command()
@click.argument("prompt")
@click.option(
    "--priority",
    type=click.Choice([p.value for p in Priority]),
    default="normal",
    show_default=True,
)
@click.option("--model", default="auto", show_default=True)
@click.option("--max-tokens", type=int)
@click.option("--temperature", type=float)
@click.option("--wait/--no-wait", default=False, help="Stay until the job has ended.")
@click.option("--json", "as_json", is_flag=True, help="Print the job as JSON.")
@target_options
def submit(prompt: str, priority: str, model: str, max_tokens: int | None,
           temperature: float | None, wait: bool, as_json: bool, url: str | None,
           token: str | None, data: Path) -> None:  # fmt: skip
    """Submit PROMPT; print its job id, or with --wait its answer."""
    client = connect(url, token, data)
    body: dict[str, Any] = {"prompt": prompt, "priority": priority, "model_preference": model}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if temperature is not None:
        body["temperature"] = temperature
    console = Console()
    try:
        job = client.submit(body, wait=MAX_WAIT_SECONDS if wait else 0)
        while wait and job["state"] not in ENDED:
            job = client.job(job["id"], wait=MAX_WAIT_SECONDS)
    except ClientError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        console.print_json(data=job)
    elif not wait:
        click.echo(job["id"])
    else:
        print_job(console, job)
        if job["state"] != "succeeded":
            raise SystemExit(1)


@click.command()
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@click.argument("job_id", required=False)
@target_options
def jobs(limit: int, job_id: str | None, url: str | None, token: str | None, data: Path) -> None:
    """List the newest jobs, or show one."""
    client = connect(url, token, data)
    console = Console()
    try:
        if job_id:
            print_job(console, client.job(job_id))
            return
        page = client.call("GET", "/v1/jobs", query={"limit": limit})
    except ClientError as error:
        raise click.ClickException(str(error)) from None
    table = Table("job", "state", "priority", "queued", "cache", "provider", "total", "answer")
    for job in page["data"]:
        timing = job["timing"]
        answer = (job["result"] or {}).get("response", "") or (job["error"] or {}).get("type", "")
        table.add_row(
            job["id"], job["state"], job["priority"],
            *(_ms(timing[name]) for name in ("queued_ms", "cache_ms", "provider_ms", "total_ms")),
            escape(" ".join(answer.split())[:40]),
        )  # fmt: skip
    console.print(table)


def print_job(console: Console, job: dict[str, Any]) -> None:
    """A job for people: its answer, where its time went, what it cost."""
    result, error, timing = job["result"], job["error"], job["timing"]
    console.print(f"[bold]{job['id']}[/]  {job['state']}  {job['priority']}", highlight=False)
    if result:
        console.print(escape(result["response"].strip()), style="green", highlight=False)
        hit = result["cache"]
        source = result["provider"] + "/" + result["model"]
        if hit:
            similarity = f", similarity {hit['similarity']:.3f}" if hit.get("similarity") else ""
            source = f"{hit['layer']} cache{similarity}"
        console.print(
            f"{source} · {result['tokens_used']} tokens · ${result['cost']:.6f} · "
            f"queued {_ms(timing['queued_ms'])}, cache {_ms(timing['cache_ms'])}, "
            f"provider {_ms(timing['provider_ms'])}, total {_ms(timing['total_ms'])}",
            style="dim",
            highlight=False,
        )
    elif error:
        console.print(f"[red]{escape(error['type'])}: {escape(error['message'])}[/]")
    elif job["queue_position"]:
        console.print(f"place in the queue: about {job['queue_position']}", highlight=False)


def _ms(value: int | None) -> str:
    if value is None:
        return "-"
    return f"{value} ms" if value < 10_000 else f"{value / 1000:.1f} s"
