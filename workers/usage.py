"""Writing the usage ledger: from the outbox of ended jobs into SQL, in bulk.

An entry is acknowledged after the commit, and a job that has a row already keeps it: whatever
dies in between, each job ends up with exactly one row. While the database is down nothing is
acknowledged and the stream simply grows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import redis
from sqlalchemy.exc import DataError, IntegrityError

from config.settings import settings
from tasks.database import Database, DatabaseDownError
from tasks.outbox import USAGE_GROUP, EndedJob, Entry, Outbox
from tasks.redis_client import connect
from tasks.usage import insert_rows, row_of

logger = logging.getLogger(__name__)

ENTRIES_PER_WRITE = 1000
SECONDS_PER_TICK = 1.5  # then the next tick goes on: the worker has other housekeeping to do
LOCK_SECONDS = 30
REDIS_SECONDS = 5.0


@dataclass(frozen=True)
class Written:
    """What one tick did."""

    rows: int
    rejected: int  # entries that no table can hold, kept in the stream `ended:rejected`


class UsageWriter:
    """The follower `usage` of the outbox."""

    def __init__(self, client: redis.Redis, prefix: str, database: Database) -> None:
        self._redis = client
        self._prefix = prefix
        self._database = database
        self._outbox = Outbox(client, prefix, USAGE_GROUP)

    def write(self) -> Written:
        """Bring SQL up to date. Raises DatabaseDownError and redis.RedisError; safe to repeat.

        Does nothing when another process is at it: that is no matter of safety, only of waste.
        """
        lock = self._redis.lock(f"{self._prefix}follow:{USAGE_GROUP}", timeout=LOCK_SECONDS)
        if not lock.acquire(blocking=False):
            return Written(0, 0)
        try:
            self._outbox.open()
            return self._write_all()
        finally:
            _let_go(lock)

    def _write_all(self) -> Written:
        end = time.monotonic() + SECONDS_PER_TICK
        rows = rejected = 0
        for read in (self._outbox.unfinished, self._outbox.new):
            while entries := read(ENTRIES_PER_WRITE):
                good, bad = self._store(entries)
                rows, rejected = rows + good, rejected + bad
                self._outbox.acknowledge([id_ for id_, _ in entries])
                if time.monotonic() > end:
                    break
        if rows:
            self._outbox.trim()
        return Written(rows, rejected)

    def _store(self, entries: Sequence[Entry]) -> tuple[int, int]:
        rows: list[tuple[Entry, dict[str, Any]]] = []
        bad: list[tuple[Entry, Exception]] = []
        for entry in entries:
            try:
                if entry[1]:  # empty: trimmed in spite of us, by the stream's own bound
                    rows.append((entry, row_of(EndedJob.from_entry(entry[1]))))
            except (KeyError, ValueError) as error:
                bad.append((entry, error))
        try:
            with self._database.session() as session:
                insert_rows(session, [row for _, row in rows])
        except (DataError, IntegrityError):
            # One row that no table can hold must not keep all others out.
            good = 0
            for entry, row in rows:
                fault = self._store_one(row)
                if fault is None:
                    good += 1
                else:
                    bad.append((entry, fault))
        else:
            good = len(rows)
        for (_, fields), reason in bad:
            self._reject(fields, reason)
        return good, len(bad)

    def _store_one(self, row: dict[str, Any]) -> Exception | None:
        try:
            with self._database.session() as session:
                insert_rows(session, [row])
        except (DataError, IntegrityError) as error:
            return error
        return None

    def _reject(self, fields: dict[bytes, bytes], error: Exception) -> None:
        logger.error(
            "usage entry rejected",
            extra={
                "action": "usage_rejected",
                "job_id": fields.get(b"job", b"").decode(errors="replace"),
                "error": type(error).__name__,
            },
        )
        self._redis.xadd(f"{self._prefix}ended:rejected", fields, maxlen=10_000)  # type: ignore[arg-type]


def _let_go(lock: Any) -> None:
    try:
        lock.release()
    except redis.exceptions.LockError:
        # It ran out while a slow database was written to; the next holder does no harm.
        logger.warning("usage lock ran out", extra={"action": "usage_lock_expired"})


@cache
def _writer() -> UsageWriter:
    current = settings()
    client = connect(current.broker_url, timeout=REDIS_SECONDS, pool_size=4)
    return UsageWriter(client, current.key_prefix, Database(current.database_url))


def write_usage() -> None:
    """The housekeeping task. A database that is down is reported and tried again."""
    try:
        written = _writer().write()
    except DatabaseDownError as error:
        logger.warning(
            "usage waits for the database",
            extra={"action": "usage_waits", "error": str(error)},
        )
        return
    if written.rows or written.rejected:
        logger.info(
            "usage written",
            extra={"action": "usage_written", "rows": written.rows, "rejected": written.rejected},
        )
