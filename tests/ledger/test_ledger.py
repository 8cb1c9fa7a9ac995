"""Single promises of the ledger that the state machine does not single out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from tasks.inference import Priority
from tasks.jobs import JobState
from tasks.ledger import Ledger, Limits, NewJob, QueueFullError, UnknownJobError


def new_job(tenant: str = "acme", lane: Priority = Priority.NORMAL, **changes: object) -> NewJob:
    return NewJob(
        **{
            "tenant": tenant, "user": "u", "lane": lane, "request": b"{}", "fingerprint": "f",
            "request_id": "r", "deadline_seconds": 600, "retention_seconds": 600,
            "max_attempts": 2, **changes,
        }  # type: ignore[arg-type]
    )  # fmt: skip


def submit(ledger: Ledger, *args: object, **kwargs: object) -> str:
    return ledger.submit(new_job(*args, **kwargs), limits=Limits())[0].job.id  # type: ignore


def lease_runs_out(ledger: Ledger, client: redis.Redis, job_id: str) -> None:
    client.zadd(ledger.key("due"), {job_id: 1}, xx=True)


class TestFairness:
    """Tenants take turns within a lane."""

    def test_a_single_job_does_not_wait_for_a_backlog(self, ledger: Ledger) -> None:
        for _ in range(500):
            submit(ledger, "whale")
        minnow = submit(ledger, "minnow")
        claimed = [ledger.claim(Priority.NORMAL, "w", 10).id for _ in range(2)]
        assert minnow in claimed

    def test_turns_are_even(self, ledger: Ledger) -> None:
        for _ in range(30):
            for tenant in ("a", "b", "c"):
                submit(ledger, tenant)
        served = [ledger.claim(Priority.NORMAL, "w", 10).tenant for _ in range(30)]
        assert {tenant: served.count(tenant) for tenant in "abc"} == {"a": 10, "b": 10, "c": 10}

    def test_absence_saves_up_no_turns(self, ledger: Ledger) -> None:
        for _ in range(40):
            submit(ledger, "busy")
        for _ in range(20):
            ledger.claim(Priority.NORMAL, "w", 10)
        for _ in range(20):
            submit(ledger, "late")
        served = [ledger.claim(Priority.NORMAL, "w", 10).tenant for _ in range(10)]
        assert 4 <= served.count("late") <= 6

    def test_within_a_tenant_the_oldest_goes_first(self, ledger: Ledger) -> None:
        ids = [submit(ledger) for _ in range(20)]
        assert [ledger.claim(Priority.NORMAL, "w", 10).id for _ in ids] == ids


class TestRecovery:
    """What the reconciler makes good."""

    def test_a_dead_workers_job_runs_again_and_its_result_is_refused(
        self, ledger: Ledger, redis_client: redis.Redis
    ) -> None:
        job_id = submit(ledger)
        dead = ledger.claim(Priority.NORMAL, "dead", 10)
        lease_runs_out(ledger, redis_client, job_id)
        assert ledger.sweep().recovered == 1
        alive = ledger.claim(Priority.NORMAL, "alive", 10)
        assert (alive.id, alive.attempt) == (job_id, 2)
        assert ledger.renew([(dead.id, dead.fence)], 10) == [False]
        assert not ledger.finish(dead, JobState.SUCCEEDED, result=b'"stale"')
        assert not ledger.defer(dead, 1, counts=True)
        assert ledger.finish(alive, JobState.SUCCEEDED, result=b'"good"')
        assert ledger.read(job_id, "acme").job.result == b'"good"'

    def test_a_poison_job_is_given_up_and_says_so(
        self, ledger: Ledger, redis_client: redis.Redis
    ) -> None:
        job_id = submit(ledger)
        for _ in range(2):
            assert ledger.claim(Priority.NORMAL, "w", 10).id == job_id
            lease_runs_out(ledger, redis_client, job_id)
            swept = ledger.sweep()
        assert swept.dead == 1
        job = ledger.read(job_id, "acme").job
        assert job.state is JobState.FAILED
        assert b"attempts_exhausted" in job.error
        assert redis_client.zscore(ledger.key("dead"), job_id)

    def test_lost_messages_are_made_up_for_once(
        self, ledger: Ledger, redis_client: redis.Redis
    ) -> None:
        for _ in range(50):
            submit(ledger)
        redis_client.delete(ledger.key("broker:inference.normal"))
        assert ledger.sweep().hinted == 50
        assert ledger.sweep().hinted == 0

    def test_a_step_is_bounded(self, ledger: Ledger, redis_client: redis.Redis) -> None:
        for _ in range(30):
            job_id = submit(ledger)
            redis_client.hset(ledger.key("job", job_id), "deadline_at", 1)
            lease_runs_out(ledger, redis_client, job_id)
        swept = ledger.sweep(most=10)
        assert (swept.looked, swept.expired) == (10, 10)

    def test_two_reconcilers_at_once_do_no_harm(
        self, ledger: Ledger, redis_client: redis.Redis
    ) -> None:
        ids = [submit(ledger) for _ in range(40)]
        for job_id in ids:
            ledger.claim(Priority.NORMAL, "dead", 10)
            lease_runs_out(ledger, redis_client, job_id)
        with ThreadPoolExecutor(4) as pool:
            swept = list(pool.map(lambda _: ledger.sweep(), range(4)))
        assert sum(s.recovered for s in swept) == len(ids)
        claimed = {ledger.claim(Priority.NORMAL, "w", 10).id for _ in ids}
        assert claimed == set(ids)
        assert ledger.claim(Priority.NORMAL, "w", 10) is None

    def test_low_jobs_age_into_normal(self, ledger: Ledger) -> None:
        job_id = submit(ledger, lane=Priority.LOW)
        assert ledger.sweep(age_low_seconds=600).aged == 0
        assert ledger.sweep(age_low_seconds=0).aged == 1
        assert ledger.claim(Priority.NORMAL, "w", 10).id == job_id


class TestDeferral:
    """Delayed work."""

    def test_a_deferred_job_waits_and_wakes(
        self, ledger: Ledger, redis_client: redis.Redis
    ) -> None:
        job_id = submit(ledger)
        job = ledger.claim(Priority.NORMAL, "w", 10)
        assert ledger.defer(job, 60, counts=True, attempts=b"[]")
        assert ledger.claim(Priority.NORMAL, "w", 10) is None
        waiting = ledger.read(job_id, "acme").job
        assert waiting.state is JobState.QUEUED
        assert waiting.not_before is not None
        lease_runs_out(ledger, redis_client, job_id)
        assert ledger.sweep().woken == 1
        assert ledger.claim(Priority.NORMAL, "w", 10).attempt == 2

    def test_waiting_for_capacity_uses_up_no_attempt(
        self, ledger: Ledger, redis_client: redis.Redis
    ) -> None:
        job_id = submit(ledger)
        for _ in range(5):
            job = ledger.claim(Priority.NORMAL, "w", 10)
            assert job.attempt == 1
            assert ledger.defer(job, 60, counts=False)
            lease_runs_out(ledger, redis_client, job_id)
            ledger.sweep()


class TestAdmission:
    """What is refused, and that a refusal leaves nothing behind."""

    @pytest.mark.parametrize(
        ("limits", "which"),
        [(Limits(waiting=1), "all"), (Limits(open_per_tenant=1), "tenant")],
    )
    def test_full(
        self, ledger: Ledger, redis_client: redis.Redis, limits: Limits, which: str
    ) -> None:
        submit(ledger)
        before = sorted(redis_client.scan_iter(f"{ledger.key()}*"))
        with pytest.raises(QueueFullError) as caught:
            ledger.submit(new_job(), limits=limits)
        assert caught.value.which == which
        assert sorted(redis_client.scan_iter(f"{ledger.key()}*")) == before

    def test_a_repeated_submit_is_the_same_job(self, ledger: Ledger) -> None:
        """The client library repeats a command whose answer was lost."""
        first, created = ledger.submit(new_job(), limits=Limits(), job_id="job_1")
        again, created_again = ledger.submit(new_job(), limits=Limits(), job_id="job_1")
        assert (created, created_again) == (True, False)
        assert first == again
        assert ledger.loads()[Priority.NORMAL].ready == 1

    def test_an_answer_that_is_known_is_recorded_as_ended(self, ledger: Ledger) -> None:
        snapshot, _ = ledger.submit(new_job(result=b'"known"'), limits=Limits())
        read = ledger.read(snapshot.job.id, "acme").job
        assert (read.state, read.result) == (JobState.SUCCEEDED, b'"known"')
        assert ledger.claim(Priority.NORMAL, "w", 10) is None
        assert ledger.loads()[Priority.NORMAL].messages == 0

    def test_another_tenant_reads_nothing(self, ledger: Ledger) -> None:
        job_id = submit(ledger, "acme")
        with pytest.raises(UnknownJobError):
            ledger.read(job_id, "blue")

    def test_expired_before_it_could_run(self, ledger: Ledger, redis_client: redis.Redis) -> None:
        late = submit(ledger)
        good = submit(ledger)
        redis_client.hset(ledger.key("job", late), "deadline_at", 1)
        assert ledger.claim(Priority.NORMAL, "w", 10).id == good
        assert ledger.read(late, "acme").job.state is JobState.EXPIRED


def test_every_key_expires_or_stands_on_the_list(ledger: Ledger, redis_client: redis.Redis) -> None:
    """After all jobs have ended, only the shared structures may live for ever."""
    for number in range(5):
        submit(ledger, f"t{number}")
        job = ledger.claim(Priority.NORMAL, "w", 10)
        ledger.finish(job, JobState.SUCCEEDED, result=b"1")
    permanent = {"vtime", "busy", "ended", "totals", "broker:inference.normal"}
    for name in redis_client.scan_iter(f"{ledger.key()}*"):
        short = name.decode().removeprefix(ledger.key())
        assert short in permanent or redis_client.ttl(name) > 0, short
