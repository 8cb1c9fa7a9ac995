"""The steps of a batch's life on a real Redis, one by one."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import redis

from tasks.batches import (
    BatchConflictError,
    BatchEndedError,
    Batches,
    BatchState,
    NewBatch,
    PreparedLine,
    UnknownBatchError,
    member_job_id,
)
from tasks.inference import Priority
from tasks.jobs import JobState
from tasks.ledger import Idempotency, Ledger, UnknownJobError

REQUEST = orjson.dumps(
    {"prompt": "hi", "user_id": "ann", "created_at": "2026-01-01T00:00:00Z"}
).decode()


@pytest.fixture
def batches(redis_client: redis.Redis, prefix: str) -> Batches:
    return Batches(redis_client, prefix)


def new(total: int, slices: int = 1, window: int = 3600, **fields: Any) -> NewBatch:
    return NewBatch(
        **{
            "tenant": "acme", "user": "ann", "lane": Priority.LOW, "request_id": "req_1",
            "lines_file": "file-1", "total": total, "slices": list(range(slices)),
            "window_seconds": window, "window": "1h", "keep_seconds": 60, "endpoint": "",
            **fields,
        }
    )  # fmt: skip


def lines(*keys: str, first: int = 0) -> list[tuple[PreparedLine, bytes | None]]:
    return [
        (PreparedLine(first + n, first + n + 1, "", key, "f", 1, {}, REQUEST, None), None)
        for n, key in enumerate(keys)
    ]


def expand(batches: Batches, batch_id: str, number: int, some: list[Any]) -> tuple[int, int] | None:
    done = batches.expand(batch_id, number, some, retention_seconds=60, max_attempts=3)
    return None if done is None else (done.made, done.joined)


def finish_next(ledger: Ledger, state: JobState = JobState.SUCCEEDED) -> str:
    job = ledger.claim(Priority.LOW, "w", 10)
    assert job is not None
    assert ledger.finish(job, state, result=b"{}")
    return job.id


def callbacks(client: redis.Redis, prefix: str) -> list[str]:
    found = client.lrange(f"{prefix}broker:system", 0, -1)
    return [orjson.loads(one)["headers"]["id"] for one in found]


def test_a_slice_that_runs_twice_changes_nothing(batches: Batches, ledger: Ledger) -> None:
    batch_id, created = batches.create(new(4))
    assert created
    assert expand(batches, batch_id, 0, lines("a", "b", "a", "c")) == (3, 1)
    assert expand(batches, batch_id, 0, lines("a", "b", "a", "c")) == (0, 0)
    assert [finish_next(ledger) for _ in range(3)] == [
        member_job_id(batch_id, key) for key in "abc"
    ]
    assert ledger.claim(Priority.LOW, "w", 10) is None
    batch = batches.read(batch_id, "acme")
    assert (batch.state, batch.counts.succeeded) == (BatchState.FINALIZING, 4)


def test_a_line_joins_a_job_that_has_ended(batches: Batches, ledger: Ledger) -> None:
    batch_id, _ = batches.create(new(3, slices=2))
    expand(batches, batch_id, 0, lines("a"))
    finish_next(ledger, JobState.FAILED)
    assert expand(batches, batch_id, 1, lines("a", "a", first=1)) == (0, 2)
    batch = batches.read(batch_id, "acme")
    assert (batch.state, batch.counts.failed) == (BatchState.FINALIZING, 3)


def test_the_callback_is_sent_once_and_the_batch_closes_once(
    batches: Batches, ledger: Ledger, redis_client: redis.Redis, prefix: str
) -> None:
    batch_id, _ = batches.create(new(2, webhook_url="https://example.com/"))
    expand(batches, batch_id, 0, lines("a", "b"))
    finish_next(ledger)
    assert callbacks(redis_client, prefix) == []
    assert not batches.close(batch_id, results_file="f", output_file="", error_file="", usage={})
    finish_next(ledger)
    assert callbacks(redis_client, prefix) == [batch_id]
    for expected in (True, False, False):
        closed = batches.close(
            batch_id, results_file="f", output_file="", error_file="", usage={"cost": 1}
        )
        assert closed is expected
    assert callbacks(redis_client, prefix) == [batch_id]
    events = redis_client.xrange(f"{prefix}events")
    assert [fields[b"type"] for _, fields in events] == [b"batch.completed"]
    batch = batches.read(batch_id, "acme")
    assert (batch.state, batch.results_file, batch.usage) == (
        BatchState.COMPLETED, "f", {"cost": 1},
    )  # fmt: skip
    assert batches.open_batches() == []
    assert redis_client.hgetall(f"{prefix}open") == {}
    assert redis_client.hgetall(f"{prefix}batches:count") == {}


def test_an_answer_that_is_known_ends_its_lines_at_once(batches: Batches, ledger: Ledger) -> None:
    batch_id, _ = batches.create(new(2))
    (first, _), second = lines("a", "b")
    assert expand(batches, batch_id, 0, [(first, b'{"x":1}'), second]) == (2, 0)
    job = ledger.read(member_job_id(batch_id, "a"), "acme").job
    assert (job.state, job.result) == (JobState.SUCCEEDED, b'{"x":1}')
    assert batches.read(batch_id, "acme").counts.succeeded == 1
    finish_next(ledger)
    assert batches.read(batch_id, "acme").state is BatchState.FINALIZING


@pytest.mark.parametrize("state", [BatchState.CANCELLED, BatchState.EXPIRED])
def test_stopping_ends_what_is_open_and_keeps_what_is_done(
    batches: Batches, ledger: Ledger, state: BatchState
) -> None:
    batch_id, _ = batches.create(new(9, slices=2))
    expand(batches, batch_id, 0, lines("a", "b", "c", "b"))
    finish_next(ledger)
    running = ledger.claim(Priority.LOW, "w", 10)
    assert running is not None
    assert batches.stop_step(batch_id, "", state) == "done"
    assert not ledger.finish(running, JobState.SUCCEEDED, result=b"{}")
    assert expand(batches, batch_id, 1, lines("d", first=4)) is None
    batch = batches.read(batch_id, "acme")
    counts = batch.counts
    assert (counts.succeeded, counts.cancelled + counts.expired, counts.ended) == (1, 8, 9)
    assert batches.stop_step(batch_id, "", state) == "ended"
    batches.close(batch_id, results_file="f", output_file="", error_file="", usage={})
    assert batches.read(batch_id, "acme").state is state
    with pytest.raises(BatchEndedError):
        batches.cancel(batch_id, "acme")


def test_a_member_whose_record_is_lost_does_not_keep_the_batch_open(
    batches: Batches, redis_client: redis.Redis, prefix: str
) -> None:
    batch_id, _ = batches.create(new(2))
    expand(batches, batch_id, 0, lines("a", "b"))
    redis_client.delete(f"{prefix}job:{member_job_id(batch_id, 'a')}")
    assert batches.stop_step(batch_id, "", BatchState.EXPIRED) == "done"
    assert batches.read(batch_id, "acme").counts.expired == 2


def test_members_end_with_the_window_by_the_ledger_itself(
    batches: Batches, ledger: Ledger, redis_client: redis.Redis, prefix: str
) -> None:
    batch_id, _ = batches.create(new(1, window=3600))
    expand(batches, batch_id, 0, lines("a"))
    job = ledger.read(member_job_id(batch_id, "a"), "acme").job
    assert job.deadline_at == batches.read(batch_id, "acme").deadline_at
    redis_client.hset(f"{prefix}job:{job.id}", "deadline_at", 1)
    assert ledger.claim(Priority.LOW, "w", 10) is None
    batch = batches.read(batch_id, "acme")
    assert (batch.counts.expired, batch.state) == (1, BatchState.FINALIZING)


def test_slices_are_taken_while_there_is_room(batches: Batches, ledger: Ledger) -> None:
    batch_id, _ = batches.create(new(40, slices=20))
    assert batches.take_slices(batch_id, open_lines=6, slice_lines=2) == [0, 1, 2]
    assert batches.take_slices(batch_id, open_lines=6, slice_lines=2) == []
    for number in range(3):
        expand(batches, batch_id, number, lines(f"{number}a", f"{number}b", first=number * 2))
    assert batches.take_slices(batch_id, open_lines=6, slice_lines=2) == []
    finish_next(ledger)
    finish_next(ledger)
    assert batches.take_slices(batch_id, open_lines=6, slice_lines=2) == [3]


def test_a_taken_slice_that_was_lost_is_taken_again(
    batches: Batches, redis_client: redis.Redis, prefix: str
) -> None:
    batch_id, _ = batches.create(new(2))
    assert batches.take_slices(batch_id, open_lines=10, slice_lines=2) == [0]
    assert batches.take_slices(batch_id, open_lines=10, slice_lines=2) == []
    redis_client.zadd(f"{prefix}batch:{batch_id}:pending", {"0": 1})  # as if time had passed
    assert batches.take_slices(batch_id, open_lines=10, slice_lines=2) == [0]


def test_lines_wait_for_a_budget(
    batches: Batches, ledger: Ledger, redis_client: redis.Redis, prefix: str
) -> None:
    batch_id, _ = batches.create(new(3))
    costly = [
        (PreparedLine(n, n + 1, "", str(n), "f", 1, {}, REQUEST, (1000, 10)), None)
        for n in range(3)
    ]

    def go() -> Any:
        return batches.expand(batch_id, 0, costly, retention_seconds=60, max_attempts=3)

    assert go().waits == "cold"
    # Nano-dollars a day: room for two of the three lines.
    redis_client.hset(f"{prefix}account:acme", "t", "[2500, -1, -1, -1, -1, -1, -1]")
    done = go()
    assert done.made == 2
    assert orjson.loads(done.waits)["kind"] == "budget"
    assert batches.read(batch_id, "acme").counts.ended == 0
    finish_next(ledger)  # costs nothing in the end: what it held is free again
    assert go().made == 1
    assert go().waits == ""
    finish_next(ledger)
    finish_next(ledger)
    assert batches.read(batch_id, "acme").state is BatchState.FINALIZING
    assert redis_client.hgetall(f"{prefix}reserved:acme") == {}


def test_a_line_that_never_fits_fails(
    batches: Batches, redis_client: redis.Redis, prefix: str, ledger: Ledger
) -> None:
    batch_id, _ = batches.create(new(1))
    redis_client.hset(f"{prefix}account:acme", "t", "[-1, -1, -1, -1, 5, -1, -1]")
    line = PreparedLine(0, 1, "", "k", "f", 1, {}, REQUEST, (0, 10))
    done = batches.expand(batch_id, 0, [(line, None)], retention_seconds=60, max_attempts=3)
    assert done is not None
    assert done.waits == ""
    job = ledger.read(member_job_id(batch_id, "k"), "acme").job
    assert job.state is JobState.FAILED
    assert orjson.loads(job.error or b"")["type"] == "over_token_limit"
    assert batches.read(batch_id, "acme").counts.failed == 1


def test_idempotency(batches: Batches) -> None:
    key = Idempotency("k", "body-1")
    batch_id, created = batches.create(new(1, idempotency=key))
    assert created
    assert batches.create(new(1, idempotency=key)) == (batch_id, False)
    with pytest.raises(BatchConflictError):
        batches.create(new(1, idempotency=Idempotency("k", "body-2")))


def test_tenants_are_apart(batches: Batches, ledger: Ledger) -> None:
    batch_id, _ = batches.create(new(1))
    expand(batches, batch_id, 0, lines("a"))
    with pytest.raises(UnknownBatchError):
        batches.read(batch_id, "globex")
    with pytest.raises(UnknownBatchError):
        batches.cancel(batch_id, "globex")
    with pytest.raises(UnknownJobError):
        ledger.read(member_job_id(batch_id, "a"), "globex")
    assert batches.page("globex") == []
    assert [one.id for one in batches.page("acme")] == [batch_id]


def test_eta(batches: Batches, ledger: Ledger) -> None:
    batch_id, _ = batches.create(new(4))
    expand(batches, batch_id, 0, lines("a", "b", "c", "d"))
    assert batches.read(batch_id, "acme").eta_seconds() is None
    finish_next(ledger)
    batch = batches.read(batch_id, "acme")
    assert batch.eta_seconds(now=batch.created_at / 1000 + 10) == 30.0
