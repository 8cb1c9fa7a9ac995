"""Minting tokens at the command line: whoever can read the signing key may."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import click
import flask

from app.identity import ROLES, init_identity, mint_token
from app.scopes import SCOPES
from app.stack.up import use_kept_secret
from config.settings import Settings, settings


def mint(
    settings: Settings,
    *,
    user: str,
    tenant: str,
    role: str,
    expires: timedelta,
    scopes: Sequence[str] | None = None,
) -> str:
    """A signed token. Raises ValueError for a bad name, role or scope, SystemExit without a key.

    `scopes`: None for all that the role has by itself.
    """
    app = flask.Flask("inferenceflow-tokens")
    init_identity(app, settings)
    with app.app_context():
        return mint_token(
            settings, user=user, tenant=tenant, role=role, expires=expires, scopes=scopes
        )


@click.group()
def token() -> None:
    """Tokens for the API."""


@token.command()
@click.option("--user", default="me", show_default=True)
@click.option("--tenant", default="demo", show_default=True)
@click.option("--role", type=click.Choice(ROLES), default="user", show_default=True)
@click.option("--days", type=click.FloatRange(min=0, min_open=True), default=30, show_default=True)
@click.option("--data", type=click.Path(path_type=Path), default=Path("var"), show_default=True)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    help="Once for each; all that the role has by itself if left out. `platform` administers "
    "every tenant.",
)
def create(
    user: str, tenant: str, role: str, days: float, data: Path, scopes: tuple[str, ...]
) -> None:
    """Print a token, signed with JWT_SECRET_KEY or with the key that `up` keeps."""
    use_kept_secret(data)
    try:
        click.echo(
            mint(
                settings(),
                user=user,
                tenant=tenant,
                role=role,
                expires=timedelta(days=days),
                scopes=scopes or None,
            )
        )
    except ValueError as error:
        raise click.ClickException(str(error)) from None
