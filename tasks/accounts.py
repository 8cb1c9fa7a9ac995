"""What each tenant and user may spend and do: SQL is the truth, Redis holds a copy.

The API reads the copy inside the Lua call that takes a job in. It asks SQL only for a tenant that
Redis does not know: the first time, and after a flush.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import astuple, dataclass

import orjson
import redis
from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from tasks.database import Database
from tasks.models import WHOLE_TENANT, Budget, Limit, UsageRow
from tasks.outbox import USAGE_GROUP, EndedJob, Outbox
from tasks.scripts import load_script

NO_BOUND = -1
_IDS_PER_QUERY = 500


@dataclass(frozen=True)
class Allowance:
    """The most that one tenant or user may use; None: no bound. The order is that of the list
    in tasks/lua/spend.lua.
    """

    day_nano: int | None = None
    month_nano: int | None = None
    day_tokens: int | None = None
    month_tokens: int | None = None
    tokens_per_minute: int | None = None
    open_jobs: int | None = None
    waiting_jobs: int | None = None

    def dump(self) -> bytes:
        """As the Lua scripts read it."""
        return orjson.dumps([NO_BOUND if value is None else value for value in astuple(self)])


@dataclass(frozen=True)
class Spent:
    """What one user used in one period."""

    period: str  # YYYYMMDD or YYYYMM
    user: str
    nano: int
    tokens: int


def allowances(session: Session, tenant: str) -> dict[str, Allowance]:
    """By user name, `*` for every other user and `` for the whole tenant, which is always there."""
    found: dict[str, dict[str, int | None]] = defaultdict(dict)
    found[WHOLE_TENANT] = {}
    for table in (Budget, Limit):
        columns = table.__table__.columns
        for row in session.execute(select(*columns).where(columns.tenant == tenant)).mappings():
            values = {name: row[name] for name in row if name not in ("tenant", "user")}
            found[row["user"]] |= values
    return {user: Allowance(**values) for user, values in found.items()}


def spent(session: Session, tenant: str, today: dt.date) -> list[Spent]:
    """What the usage ledger says of this day and month, by user."""
    first = today.replace(day=1)
    of_day = UsageRow.day == today
    paid = case(
        (UsageRow.cache_layer == "", UsageRow.input_tokens + UsageRow.output_tokens), else_=0
    )
    rows = session.execute(
        select(
            UsageRow.user,
            func.sum(case((of_day, UsageRow.cost_nano), else_=0)),
            func.sum(case((of_day, paid), else_=0)),
            func.sum(UsageRow.cost_nano),
            func.sum(paid),
        )
        .where(UsageRow.tenant == tenant, UsageRow.day >= first, UsageRow.day <= today)
        .group_by(UsageRow.user)
    )
    day, month = today.strftime("%Y%m%d"), today.strftime("%Y%m")
    return [
        sum_
        for user, day_nano, day_tokens, nano, tokens in rows
        for sum_ in (
            Spent(day, user, int(day_nano), int(day_tokens)),
            Spent(month, user, int(nano), int(tokens)),
        )
    ]


class Accounts:
    """The copy in Redis."""

    def __init__(self, client: redis.Redis, prefix: str, database: Database) -> None:
        self._redis = client
        self._prefix = prefix
        self._database = database
        self._outbox = Outbox(client, prefix, USAGE_GROUP)
        self._load = load_script(client, "load_account")

    def load(self, tenant: str) -> None:
        """Give Redis what SQL says of a tenant, with what it has spent in this day and month.

        Raises DatabaseDownError, redis.RedisError.
        """
        today = dt.datetime.fromtimestamp(self._now(), dt.UTC).date()
        waiting = self._unacknowledged(tenant)
        with self._database.session() as session:
            allowed = allowances(session, tenant)
            sums = spent(session, tenant, today)
            known: set[str] = set()
            for start in range(0, len(waiting), _IDS_PER_QUERY):
                ids = [job.id for job in waiting[start : start + _IDS_PER_QUERY]]
                known |= set(
                    session.scalars(select(UsageRow.job_id).where(UsageRow.job_id.in_(ids)))
                )
        sums += _unwritten([job for job in waiting if job.id not in known], today)
        self._write(tenant, allowed, sums, counters=True)

    def changed(self, tenant: str) -> None:
        """Give Redis new allowances of a tenant; its counters stay. Raises as `load` does."""
        with self._database.session() as session:
            allowed = allowances(session, tenant)
        self._write(tenant, allowed, (), counters=False)

    def _unacknowledged(self, tenant: str) -> list[EndedJob]:
        """The tenant's jobs in the outbox. Read before SQL: what is written in between is then
        seen twice, and dropped once, rather than never.
        """
        if not self._redis.exists(f"{self._prefix}jobs:{tenant}"):
            return []  # a new tenant, or a flush: nothing of it can have ended
        jobs = [EndedJob.from_entry(fields) for _, fields in self._outbox.everything()]
        return [job for job in jobs if job.tenant == tenant]

    def _write(
        self, tenant: str, allowed: dict[str, Allowance], sums: Iterable[Spent], *, counters: bool
    ) -> None:
        arguments: list[object] = [self._prefix, "", tenant, "1" if counters else "", len(allowed)]
        for user, allowance in allowed.items():
            arguments += ["t" if user == WHOLE_TENANT else f"u:{user}", allowance.dump()]
        for one in sums:
            for place in ("t", f"u:{one.user}"):
                arguments += [one.period, place, one.nano, one.tokens]
        self._load(args=arguments)

    def _now(self) -> float:
        """Redis' own time, which decides what day it is."""
        seconds, _ = self._redis.time()
        return float(seconds)


def _unwritten(jobs: Iterable[EndedJob], today: dt.date) -> list[Spent]:
    """What ended in this day and month and is not in SQL yet."""
    sums = []
    for job in jobs:
        ended = dt.datetime.fromtimestamp(job.finished_at / 1000, dt.UTC).date()
        used = (job.user, job.bill.cost_nano, job.bill.billable_tokens)
        if ended == today:
            sums.append(Spent(today.strftime("%Y%m%d"), *used))
        if (ended.year, ended.month) == (today.year, today.month):
            sums.append(Spent(today.strftime("%Y%m"), *used))
    return sums


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
