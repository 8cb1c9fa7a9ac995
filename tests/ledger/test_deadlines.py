"""Estimates of the start of a job, and what is refused because of them."""

from __future__ import annotations

import pytest
import redis

from tasks.inference import Priority
from tasks.jobs import JobState
from tasks.ledger import DeadlineUnreachableError, Ledger, Limits
from tests.ledger.test_ledger import new_job, submit

SLOT_MS = 10_000  # as in tasks/lua/spend.lua


def busy_for(ledger: Ledger, client: redis.Redis, seconds: int, lane: str = "normal") -> None:
    """As if the lane had never been empty for so long."""
    at, _ = client.time()
    client.hset(ledger.key("busy"), lane, (at - seconds) * 1000)


def drained(ledger: Ledger, client: redis.Redis, a_second: int, lane: str = "normal") -> None:
    """As if so many jobs of the lane had ended in each of the last 70 seconds."""
    at, _ = client.time()
    now = at * 1000 // SLOT_MS
    for slot in range(now - 7, now + 1):
        client.hset(ledger.key("drained", str(slot)), lane, a_second * SLOT_MS // 1000)


def test_the_estimate_follows_from_the_pace_and_the_place(
    ledger: Ledger, redis_client: redis.Redis
) -> None:
    ids = [submit(ledger) for _ in range(101)]
    drained(ledger, redis_client, 2)
    busy_for(ledger, redis_client, 60)
    assert ledger.read(ids[0], "acme").eta_seconds == 0
    estimate = ledger.read(ids[100], "acme").eta_seconds
    assert estimate is not None
    assert 40 < estimate < 60  # a running slot counts whole: some more than 2 a second
    snapshot, _ = ledger.submit(new_job(), limits=Limits())
    assert snapshot.eta_seconds == pytest.approx(estimate, rel=0.2)


def test_tenants_in_turn_share_the_pace(ledger: Ledger, redis_client: redis.Redis) -> None:
    for _ in range(100):
        submit(ledger, "whale")
    minnow = submit(ledger, "minnow")
    drained(ledger, redis_client, 2)
    busy_for(ledger, redis_client, 60)
    assert ledger.read(minnow, "minnow").eta_seconds == 0
    second, _ = ledger.submit(new_job("minnow"), limits=Limits())
    assert second.eta_seconds is not None
    assert second.eta_seconds <= 1


def test_nobody_knows_the_pace_of_a_lane_that_was_empty(
    ledger: Ledger, redis_client: redis.Redis
) -> None:
    """One job an hour is no sign that the lane could not do more."""
    drained(ledger, redis_client, 1)
    for _ in range(1000):
        submit(ledger)
    snapshot, created = ledger.submit(new_job(deadline_seconds=1), limits=Limits())
    assert created
    assert snapshot.eta_seconds is None


def test_a_lane_that_was_emptied_is_measured_anew(
    ledger: Ledger, redis_client: redis.Redis
) -> None:
    submit(ledger)
    busy_for(ledger, redis_client, 60)
    job = ledger.claim(Priority.NORMAL, "w", 10)
    assert job is not None
    drained(ledger, redis_client, 1)
    for _ in range(100):
        submit(ledger)
    assert ledger.submit(new_job(deadline_seconds=1), limits=Limits())[1]


def test_a_lane_where_nothing_ends_refuses_nothing(
    ledger: Ledger, redis_client: redis.Redis
) -> None:
    submit(ledger)
    busy_for(ledger, redis_client, 60)
    assert ledger.submit(new_job(deadline_seconds=1), limits=Limits())[1]


def test_what_cannot_start_in_time_is_refused_and_leaves_nothing(
    ledger: Ledger, redis_client: redis.Redis
) -> None:
    for _ in range(100):
        submit(ledger)
    drained(ledger, redis_client, 1)
    busy_for(ledger, redis_client, 60)
    before = sorted(redis_client.scan_iter(f"{ledger.key()}*"))
    with pytest.raises(DeadlineUnreachableError) as caught:
        ledger.submit(new_job(deadline_seconds=30), limits=Limits())
    assert 80 < caught.value.eta_seconds <= 110
    assert sorted(redis_client.scan_iter(f"{ledger.key()}*")) == before
    assert ledger.submit(new_job(deadline_seconds=300), limits=Limits())[1]
    assert ledger.submit(new_job(deadline_seconds=1, lane=Priority.HIGH), limits=Limits())[1]
    # What is known needs no worker.
    known, _ = ledger.submit(new_job(deadline_seconds=1, result=b'"known"'), limits=Limits())
    assert known.job.state is JobState.SUCCEEDED
