"""The account database at the command line."""

from __future__ import annotations

import click

from config.settings import settings


@click.group()
def db() -> None:
    """The database of accounts and usage."""


@db.command()
def upgrade() -> None:
    """Make or change the tables of DATABASE_URL; safe to repeat, and at once from many places."""
    from tasks.database import Database, DatabaseDownError
    from tasks.schema import upgrade as bring_up

    database = Database(settings().database_url)
    try:
        revision = bring_up(database)
    except DatabaseDownError as error:
        raise click.ClickException(str(error)) from None
    finally:
        database.close()
    click.echo(f"at revision {revision}")
