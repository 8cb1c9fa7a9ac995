"""From the outbox into SQL: each job exactly one row, whatever fails in between."""

from __future__ import annotations

import datetime as dt

import pytest
import redis
from sqlalchemy import select

from tasks.database import Database, DatabaseDownError
from tasks.inference import Priority
from tasks.jobs import JobState
from tasks.ledger import Ledger, Limits, NewJob
from tasks.models import UsageRow
from tasks.money import dollars, dollars_text, nano
from tasks.outbox import USAGE_GROUP, WEBHOOK_GROUP, Outbox
from tasks.schema import head, upgrade
from tasks.usage import sums
from tests.accounts.test_budgets import result
from workers.usage import UsageWriter, Written


def new_job(**changes: object) -> NewJob:
    values: dict[str, object] = {
        "tenant": "acme", "user": "ann", "lane": Priority.NORMAL, "request": b"{}",
        "fingerprint": "f", "request_id": "r", "deadline_seconds": 60.0,
        "retention_seconds": 60, "max_attempts": 3, **changes,
    }  # fmt: skip
    return NewJob(**values)  # type: ignore[arg-type]


def run_jobs(ledger: Ledger, count: int, cost: float = 0.000_001_5) -> list[str]:
    ids = []
    for _ in range(count):
        ledger.submit(new_job(), limits=Limits())
        job = ledger.claim(Priority.NORMAL, "w", 10)
        assert job is not None
        ledger.finish(job, JobState.SUCCEEDED, result=result(cost), cache_ms=3, provider_ms=20)
        ids.append(job.id)
    return ids


def rows(database: Database) -> list[UsageRow]:
    with database.session() as session:
        return list(session.scalars(select(UsageRow)))


@pytest.fixture
def writer(redis_client: redis.Redis, prefix: str, database: Database) -> UsageWriter:
    return UsageWriter(redis_client, prefix, database)


def test_each_end_becomes_one_row(ledger: Ledger, writer: UsageWriter, database: Database) -> None:
    done = run_jobs(ledger, 3)
    cancelled, _ = ledger.submit(new_job(user="bob"), limits=Limits())
    ledger.cancel(cancelled.job.id, "acme")
    ledger.submit(new_job(result=result(0.0, cache_hit=True, saved=0.5)), limits=Limits())
    assert writer.write() == Written(5, 0)
    found = {row.job_id: row for row in rows(database)}
    assert len(found) == 5
    row = found[done[0]]
    assert (row.tenant, row.user, row.provider, row.model) == ("acme", "ann", "openai", "gpt-4.1")
    assert (row.input_tokens, row.output_tokens, row.cost_nano) == (10, 20, 1_500)
    assert (row.state, row.priority) == ("succeeded", "normal")
    assert (row.cache_ms, row.provider_ms) == (3, 20)
    assert row.day == dt.datetime.fromtimestamp(row.finished_at / 1000, dt.UTC).date()
    assert found[cancelled.job.id].state == "cancelled"
    assert found[cancelled.job.id].cost_nano == 0
    assert writer.write() == Written(0, 0)


def test_what_was_read_and_not_acknowledged_is_written_once(
    ledger: Ledger, writer: UsageWriter, database: Database, redis_client: redis.Redis, prefix: str
) -> None:
    run_jobs(ledger, 4)
    outbox = Outbox(redis_client, prefix, USAGE_GROUP)
    outbox.open()
    assert len(outbox.new(2)) == 2  # a writer that died before its commit
    assert writer.write().rows == 4
    assert len(rows(database)) == 4
    assert outbox.unfinished(10) == []


def test_a_commit_without_acknowledgement_makes_no_second_row(
    ledger: Ledger, writer: UsageWriter, database: Database, redis_client: redis.Redis, prefix: str
) -> None:
    ids = run_jobs(ledger, 2)
    writer.write()
    redis_client.delete(f"{prefix}ended")
    for job_id in ids:  # the same entries again
        redis_client.xadd(
            f"{prefix}ended",
            {
                "job": job_id, "tenant": "acme", "user": "ann", "state": "failed",
                "lane": "normal", "created_at": "1", "finished_at": "2", "queued_ms": "",
                "cache_ms": "", "provider_ms": "", "total_ms": "1", "bill": "",
            },
        )  # fmt: skip
    writer.write()
    assert {row.state for row in rows(database)} == {"succeeded"}
    assert len(rows(database)) == 2


def test_nothing_is_lost_while_the_database_is_down(
    ledger: Ledger, redis_client: redis.Redis, prefix: str, database: Database
) -> None:
    down = UsageWriter(redis_client, prefix, Database("postgresql://postgres@127.0.0.1:1/postgres"))
    run_jobs(ledger, 3)
    for _ in range(2):
        with pytest.raises(DatabaseDownError):
            down.write()
    run_jobs(ledger, 2)
    assert UsageWriter(redis_client, prefix, database).write() == Written(5, 0)
    assert redis_client.xpending(f"{prefix}ended", USAGE_GROUP)["pending"] == 0


def test_an_entry_that_no_table_can_hold_keeps_no_other_out(
    ledger: Ledger, writer: UsageWriter, database: Database, redis_client: redis.Redis, prefix: str
) -> None:
    run_jobs(ledger, 1)
    redis_client.xadd(f"{prefix}ended", {"job": "job_broken", "tenant": "acme"})
    ledger.submit(new_job(), limits=Limits())
    job = ledger.claim(Priority.NORMAL, "w", 10)
    assert job is not None
    ledger.finish(job, JobState.SUCCEEDED, result=result(0.1, model="a\0b"))  # not for PostgreSQL
    written = writer.write()
    assert written.rows + written.rejected == 3
    assert written.rejected >= 1
    assert redis_client.xlen(f"{prefix}ended:rejected") == written.rejected
    assert redis_client.xpending(f"{prefix}ended", USAGE_GROUP)["pending"] == 0


def test_trimming_waits_for_every_group(
    ledger: Ledger, writer: UsageWriter, redis_client: redis.Redis, prefix: str
) -> None:
    name = f"{prefix}ended"
    webhooks = Outbox(redis_client, prefix, "webhooks")
    webhooks.open()
    run_jobs(ledger, 150)
    writer.write()
    assert redis_client.xlen(name) == 150
    read = webhooks.new(120)
    webhooks.acknowledge([entry_id for entry_id, _ in read[1:]])
    writer_outbox = Outbox(redis_client, prefix, USAGE_GROUP)
    assert writer_outbox.trim() == 0  # the first one is still pending
    webhooks.acknowledge([read[0][0]])
    assert writer_outbox.trim() == 120
    assert len(webhooks.new(1000)) == 30


def test_nothing_is_trimmed_before_every_follower_has_begun(
    ledger: Ledger, writer: UsageWriter, redis_client: redis.Redis, prefix: str
) -> None:
    run_jobs(ledger, 5)
    writer.write()
    assert Outbox(redis_client, prefix, USAGE_GROUP).trim() == 0
    late = Outbox(redis_client, prefix, WEBHOOK_GROUP)
    late.open()
    assert len(late.new(100)) == 5


def test_only_one_writes_at_a_time(
    ledger: Ledger, writer: UsageWriter, redis_client: redis.Redis, prefix: str
) -> None:
    run_jobs(ledger, 1)
    with redis_client.lock(f"{prefix}follow:{USAGE_GROUP}", timeout=30):
        assert writer.write() == Written(0, 0)
    assert writer.write() == Written(1, 0)


def test_sums_are_exact(ledger: Ledger, writer: UsageWriter, database: Database) -> None:
    run_jobs(ledger, 7, cost=0.1 + 0.2)  # 0.30000000000000004 as a float
    writer.write()
    today = dt.datetime.now(dt.UTC).date()
    with database.session() as session:
        whole = sums(session, "acme", first=today.replace(day=1), last=today)
        groups = sums(session, "acme", first=today, last=today, by=["model", "user"])
        nobody = sums(session, "other", first=today, last=today)
    assert whole[0].cost_nano == 2_100_000_000
    assert groups[0].group == {"model": "gpt-4.1", "user": "ann"}
    assert nobody[0].jobs == 0


def test_upgrade_is_repeatable(database: Database) -> None:
    assert upgrade(database) == head()


def test_money() -> None:
    assert nano(0.075) == 75_000_000
    assert nano("0.1") + nano("0.2") == nano(0.3)
    assert dollars(1_500_000_000) == 1.5
    assert dollars_text(1) == "0.000000001"
    with pytest.raises(ValueError, match="not an amount"):
        nano("much")
