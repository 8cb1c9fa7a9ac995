"""`inferenceflow init` and `inferenceflow probe`: what an installation needs around it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import click

from app.probe import heartbeat_fault

SECRET_BYTES = 32  # as hexadecimal digits they need no quoting in a URL

LOCAL_MODEL = """
# The small language model of docker-compose.yml.
COMPOSE_PROFILES=local-model
LOCAL_BASE_URL=http://local-model:8089/v1
"""


def environment_file(*, local_model: bool = False) -> str:
    """The text of a `.env` with fresh secrets. Every other setting keeps its default."""
    names = (
        "JWT_SECRET_KEY",
        "REDIS_PASSWORD",
        "CACHE_REDIS_PASSWORD",
        "POSTGRES_PASSWORD",
        "GRAFANA_PASSWORD",
        "FLOWER_PASSWORD",
    )
    lines = [f"{name}={secrets.token_hex(SECRET_BYTES)}" for name in names]
    return (
        "# Written by `inferenceflow init`. Keep it secret, and keep a copy: data in Redis and\n"
        "# PostgreSQL is reached with these passwords. Every setting is in .env.example.\n"
        + "\n".join(lines)
        + "\n"
        + (LOCAL_MODEL if local_model else "")
    )


@click.command()
@click.option("--file", type=click.Path(path_type=Path), default=Path(".env"), show_default=True)
@click.option("--local-model", is_flag=True, help="Have compose serve a small language model too.")
def init(file: Path, local_model: bool) -> None:
    """Write a .env with fresh random passwords, readable by you alone."""
    try:
        # Made by this call or not at all, and never readable by others, not even for a moment.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise click.ClickException(
            f"{file} exists; it is kept as it is. Services know the passwords in it."
        ) from None
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written ({error.strerror})") from None
    with os.fdopen(descriptor, "w") as stream:
        stream.write(environment_file(local_model=local_model))
    click.echo(f"wrote {file}: add your provider keys, then `docker compose up -d`")


@click.command()
@click.option(
    "--heartbeat",
    "file",
    type=click.Path(path_type=Path),
    required=True,
    help="The HEARTBEAT_FILE of the process.",
)
@click.option("--max-age", type=click.FloatRange(min=1), default=30.0, show_default=True,
              help="Seconds.")  # fmt: skip
def probe(file: Path, max_age: float) -> None:
    """Say by the exit status whether a worker or beat is alive."""
    fault = heartbeat_fault(file, max_age)
    if fault is not None:
        raise click.ClickException(fault)
