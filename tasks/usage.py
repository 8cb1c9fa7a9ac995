"""The usage ledger in SQL: one row for each job that ended, and sums over them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import case, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session

from tasks.models import UsageRow
from tasks.outbox import EndedJob

Dimension = Literal["day", "model", "user", "provider", "priority", "state"]
_COLUMNS: dict[Dimension, InstrumentedAttribute[Any]] = {
    "day": UsageRow.day,
    "model": UsageRow.model,
    "user": UsageRow.user,
    "provider": UsageRow.provider,
    "priority": UsageRow.priority,
    "state": UsageRow.state,
}


@dataclass(frozen=True)
class UsageSum:
    """What the jobs of one group used together. Money in nano-dollars."""

    group: dict[str, str]
    jobs: int
    cache_hits: int
    input_tokens: int
    output_tokens: int
    cost_nano: int
    saved_nano: int


def row_of(job: EndedJob) -> dict[str, Any]:
    """The row of one job."""
    bill = job.bill
    return {
        "job_id": job.id,
        "tenant": job.tenant,
        "user": job.user,
        "day": dt.datetime.fromtimestamp(job.finished_at / 1000, dt.UTC).date(),
        "state": job.state.value,
        "priority": job.lane.value,
        "provider": bill.provider,
        "model": bill.model,
        "input_tokens": bill.input_tokens,
        "output_tokens": bill.output_tokens,
        "prompt_cached_tokens": bill.prompt_cached_tokens,
        "cost_nano": bill.cost_nano,
        "saved_nano": bill.saved_nano,
        "cache_layer": bill.cache_layer,
        "queued_ms": job.queued_ms,
        "cache_ms": job.cache_ms,
        "provider_ms": job.provider_ms,
        "total_ms": job.total_ms,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
    }


def insert_rows(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows; those of jobs that already have one are left as they are."""
    if not rows:
        return
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    session.execute(insert(UsageRow).on_conflict_do_nothing(index_elements=["job_id"]), rows)


def sums(
    session: Session,
    tenant: str,
    *,
    first: dt.date,
    last: dt.date,
    by: Iterable[Dimension] = (),
    user: str | None = None,
) -> list[UsageSum]:
    """Sums over the jobs that ended from `first` to `last` (both included, UTC), grouped by
    `by`; one sum over all when it is empty. `user`: of this one only.
    """
    names = list(by)
    columns = [_COLUMNS[name] for name in names]
    query = (
        select(
            *columns,
            func.count(),
            func.sum(case((UsageRow.cache_layer != "", 1), else_=0)),
            *(
                func.coalesce(func.sum(column), 0)
                for column in (
                    UsageRow.input_tokens,
                    UsageRow.output_tokens,
                    UsageRow.cost_nano,
                    UsageRow.saved_nano,
                )
            ),
        )
        .where(UsageRow.tenant == tenant, UsageRow.day >= first, UsageRow.day <= last)
        .group_by(*columns)
        .order_by(*columns)
    )
    if user is not None:
        query = query.where(UsageRow.user == user)
    return [
        UsageSum(
            {name: str(value) for name, value in zip(names, row, strict=False)},
            *(int(value or 0) for value in row[len(names) :]),
        )
        for row in session.execute(query)
    ]
