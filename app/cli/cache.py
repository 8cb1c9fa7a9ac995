"""`inferenceflow cache` and `inferenceflow route`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
from rich.console import Console

from app.cli.jobs import connect, target_options
from app.client import ClientError


@click.group()
def cache() -> None:
    """What the cache did, and forgetting it."""


@cache.command()
@click.option("--everyone", is_flag=True, help="Of all tenants; needs the scope `platform`.")
@target_options
def stats(everyone: bool, url: str | None, token: str | None, data: Path) -> None:
    """Hits by layer, vetoes, what was saved, estimated errors, most used entries."""
    query = "?everyone=true" if everyone else ""
    try:
        answer = connect(url, token, data).call("GET", f"/v1/cache/stats{query}")
    except ClientError as error:
        raise click.ClickException(str(error)) from None
    Console().print_json(data=answer)


@cache.command()
@click.option("--pattern", help="A glob over the prompt.")
@click.option("--model", help="The model that answered.")
@click.option("--tag")
@click.option("--older-than", type=click.FloatRange(min=0), help="Seconds.")
@click.option("--everyone", is_flag=True, help="Of all tenants; needs the scope `platform`.")
@click.confirmation_option(prompt="Forget cached answers?")
@target_options
def invalidate(pattern: str | None, model: str | None, tag: str | None,
               older_than: float | None, everyone: bool, url: str | None, token: str | None,
               data: Path) -> None:  # fmt: skip
    """Forget cached answers of the tenant: those that meet every condition given, or all."""
    body = {"pattern": pattern, "model": model, "tag": tag, "older_than": older_than}
    body = {name: value for name, value in body.items() if value is not None}
    try:
        answer = connect(url, token, data).call(
            "POST", "/v1/cache/invalidate", body={**body, "everyone": everyone}
        )
    except ClientError as error:
        raise click.ClickException(str(error)) from None
    click.echo("all forgotten" if answer["removed"] is None else f"{answer['removed']} forgotten")


def _measure(module: str, arguments: tuple[str, ...]) -> None:
    """Hand over to a program of the workers: it loads models, which this process must not."""
    command = [sys.executable, "-m", module, *arguments]
    os.execv(command[0], command)  # noqa: S606 - our own program


_PASS_ON = {"ignore_unknown_options": True, "help_option_names": []}


@cache.command(context_settings=_PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def evaluate(arguments: tuple[str, ...]) -> None:
    """Measure recall and false hits on labelled pairs (a,b,same,source): PAIRS.csv[.gz] --json."""
    _measure("workers.cache.evaluate", arguments)


@cache.command(context_settings=_PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def replay(arguments: tuple[str, ...]) -> None:
    """Replay a stream of prompts (prompt,answer_id) through the cache: STREAM.csv --json."""
    _measure("workers.cache.replay", arguments)


@click.command()
@click.argument("prompt")
@click.option("--model", default="auto", show_default=True)
@target_options
def route(prompt: str, model: str, url: str | None, token: str | None, data: Path) -> None:
    """Explain which models would answer PROMPT, and why."""
    try:
        answer = connect(url, token, data).call(
            "POST", "/v1/route", body={"prompt": prompt, "model_preference": model}
        )
    except ClientError as error:
        raise click.ClickException(str(error)) from None
    Console().print_json(data=answer)
