"""The SQL database: SQLite in WAL mode on one machine, PostgreSQL in production."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker

CONNECT_SECONDS = 2
STATEMENT_SECONDS = 5  # a lock or a slow disk must not hold an API thread for longer


class DatabaseDownError(Exception):
    """The database does not answer, or has no tables yet."""


class Database:
    """One database. Connects when first used; thread-safe."""

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        if self.url.drivername == "postgresql":
            self.url = self.url.set(drivername="postgresql+psycopg")
        self._checked = False
        self._lock = threading.Lock()

    @property
    def is_sqlite(self) -> bool:
        """Whether this is a file on this machine."""
        return self.url.get_backend_name() == "sqlite"

    @cached_property
    def engine(self) -> Engine:
        """The engine, with the settings that each kind of database needs."""
        if self.is_sqlite:
            if self.url.database:
                Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(self.url, connect_args={"timeout": STATEMENT_SECONDS})
            event.listen(engine, "connect", _sqlite_pragmas)
            return engine
        return create_engine(
            self.url,
            pool_size=5,
            max_overflow=5,
            pool_timeout=CONNECT_SECONDS,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": CONNECT_SECONDS,
                "options": f"-c statement_timeout={STATEMENT_SECONDS * 1000}",
            },
        )

    @cached_property
    def _sessions(self) -> sessionmaker[Session]:
        return sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction: committed at the end of the block, undone by an exception.

        Raises DatabaseDownError when the database cannot be reached or was never set up.
        """
        with _down_means_down():
            self._ready()
            with self._sessions() as session, session.begin():
                yield session

    def close(self) -> None:
        """Close all connections."""
        if "engine" in self.__dict__:
            self.engine.dispose()

    def _ready(self) -> None:
        """Make the tables of a new SQLite file: nobody else administers it."""
        if self._checked:
            return
        with self._lock:
            if self.is_sqlite and not inspect(self.engine).has_table("alembic_version"):
                # In a process of its own: Alembic is needed once in the life of a file, and would
                # stay in the memory of an API process for ever.
                command = [sys.executable, "-m", "tasks.schema", str(self.url)]
                if subprocess.run(command, check=False).returncode != 0:  # noqa: S603 - our own
                    raise DatabaseDownError(f"{DatabaseDownError.__doc__} (tables not made)")
            self._checked = True


@contextmanager
def _down_means_down() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, ProgrammingError, PoolTimeoutError) as error:
        # ProgrammingError: a table is missing, so `inferenceflow db upgrade` was not run.
        raise DatabaseDownError(f"{DatabaseDownError.__doc__} ({_cause(error)})") from error


def _cause(error: Exception) -> str:
    """The kind of error alone: its text would repeat the statement's parameters."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return type(original).__name__


def _sqlite_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",  # readers and the one writer do not wait for each other
        "synchronous=FULL",  # the outbox is trimmed after a commit: it must survive a power cut
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
