"""Bringing a database to the newest schema, with Alembic and the migrations in this package."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from tasks.database import Database, DatabaseDownError

_ADVISORY_LOCK = 0x1F_F10  # any number that nothing else in the database uses


def upgrade(database: Database) -> str:
    """Make or change the tables; nothing to do is fine. Returns the revision that now holds.

    Several processes may do this at once: one does the work. Raises DatabaseDownError.
    """
    config = _config()
    try:
        with _alone(database), database.engine.begin() as connection:
            if not database.is_sqlite:
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK}
                )
            _run(config, connection)
    except OperationalError as error:
        raise DatabaseDownError(DatabaseDownError.__doc__) from error
    return head()


def head() -> str:
    """The newest revision that this version of the package knows."""
    found = ScriptDirectory.from_config(_config()).get_current_head()
    assert found is not None  # noqa: S101 - the package has migrations
    return found


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("tasks") / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


def _run(config: Config, connection: Connection) -> None:
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextmanager
def _alone(database: Database) -> Iterator[None]:
    """Hold a lock file: SQLite alone does not keep two processes from making the same tables."""
    if not database.is_sqlite or not database.url.database:
        yield
        return
    with Path(f"{database.url.database}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    upgrade(Database(sys.argv[1]))
