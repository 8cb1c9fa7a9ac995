"""The ledger against a model of it: random steps on a real Redis, invariants after each.

Time is moved by rewriting the due times in Redis, so no step waits for a clock.
"""

from __future__ import annotations

import secrets

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from tasks.inference import Priority
from tasks.jobs import Job, JobState
from tasks.ledger import JobEndedError, Ledger, Limits, NewJob, UnknownJobError

LANES = list(Priority)
TENANTS = ["acme", "blue", "coyote"]
ENDS = [JobState.SUCCEEDED, JobState.FAILED]


class LedgerMachine(RuleBasedStateMachine):
    """What clients, workers, their deaths and the reconciler can do, in any order."""

    client: redis.Redis

    ids = Bundle("ids")
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"test:{secrets.token_hex(6)}:"
        self.ledger = Ledger(self.client, self.prefix)
        self.tenant: dict[str, str] = {}
        self.ended: dict[str, bytes] = {}  # id -> the record as it was when it ended
        self.fence: dict[str, int] = {}

    def _record(self, job_id: str) -> dict[bytes, bytes]:
        return self.client.hgetall(f"{self.prefix}job:{job_id}")

    def _note_ends(self) -> None:
        for job_id in self.tenant:
            if JobState(self._record(job_id)[b"state"].decode()).terminal:
                self._note_end(job_id)

    def _note_end(self, job_id: str) -> None:
        state = JobState(self._record(job_id)[b"state"].decode())
        assert state.terminal
        self.ended.setdefault(job_id, repr(sorted(self._record(job_id).items())).encode())

    @rule(target=ids, lane=st.sampled_from(LANES), tenant=st.sampled_from(TENANTS))
    def submit(self, lane: Priority, tenant: str) -> str:
        snapshot, created = self.ledger.submit(
            NewJob(
                tenant=tenant, user="u", lane=lane, request=b"{}", fingerprint="f",
                request_id="r", deadline_seconds=600, retention_seconds=600, max_attempts=2,
            ),
            limits=Limits(),
        )  # fmt: skip
        assert created
        job_id = snapshot.job.id
        assert self.ledger.read(job_id, tenant) == snapshot
        self.tenant[job_id] = tenant
        self.fence[job_id] = 0
        return job_id

    @rule(target=claims, lane=st.sampled_from(LANES))
    def claim(self, lane: Priority):
        ended_before = set(self.ended)
        job = self.ledger.claim(lane, "w", 600)
        self._note_ends()  # a claim ends what is past its deadline
        if job is None:
            return multiple()
        assert job.id not in ended_before
        assert job.state is JobState.RUNNING
        assert job.fence > self.fence[job.id]
        self.fence[job.id] = job.fence
        return job

    def _holds(self, job: Job) -> bool:
        record = self._record(job.id)
        return record[b"state"] == b"running" and int(record[b"fence"]) == job.fence

    @rule(job=claims, end=st.sampled_from(ENDS))
    def finish(self, job: Job, end: JobState) -> None:
        held = self._holds(job)
        repeated = self._record(job.id)[b"state"] == end.value.encode() and (
            int(self._record(job.id)[b"fence"]) == job.fence
        )
        assert self.ledger.finish(job, end, result=b'"x"') == (held or repeated)
        if held:
            self._note_end(job.id)

    @rule(job=claims, counts=st.booleans())
    def defer(self, job: Job, counts: bool) -> None:
        held = self._holds(job)
        assert self.ledger.defer(job, 300, counts=counts) == held

    @rule(job=claims)
    def renew(self, job: Job) -> None:
        assert self.ledger.renew([(job.id, job.fence)], 600) == [self._holds(job)]

    @rule(job_id=ids, mine=st.booleans())
    def cancel(self, job_id: str, mine: bool) -> None:
        tenant = self.tenant[job_id] if mine else "mallory"
        if not mine:
            with pytest.raises(UnknownJobError):
                self.ledger.cancel(job_id, tenant)
        elif job_id in self.ended:
            with pytest.raises(JobEndedError):
                self.ledger.cancel(job_id, tenant)
        else:
            self.ledger.cancel(job_id, tenant)
            self._note_end(job_id)

    @rule(job_id=ids)
    def time_passes_for(self, job_id: str) -> None:
        """The lease, or the delay, of one job runs out."""
        self.client.zadd(f"{self.prefix}due", {job_id: 1}, xx=True)

    @rule(job_id=ids)
    def deadline_passes(self, job_id: str) -> None:
        if job_id not in self.ended:
            self.client.hset(f"{self.prefix}job:{job_id}", "deadline_at", 1)
            self.client.zadd(f"{self.prefix}due", {job_id: 1}, xx=True)

    @rule(queue=st.sampled_from(LANES))
    def messages_get_lost(self, queue: Priority) -> None:
        self.client.delete(f"{self.prefix}broker:inference.{queue}")

    @rule()
    def sweep(self) -> None:
        self.ledger.sweep()
        loads = self.ledger.loads()
        for load in loads.values():
            assert load.messages >= load.ready, "a ready job without a message is never run"
        for job_id in self.tenant:
            self.fence[job_id] = int(self._record(job_id)[b"fence"])
        self._note_ends()

    @invariant()
    def an_end_is_final(self) -> None:
        for job_id, then in self.ended.items():
            assert repr(sorted(self._record(job_id).items())).encode() == then

    @invariant()
    def every_open_job_is_due(self) -> None:
        """Whatever died: the reconciler will look at each job that has not ended."""
        due = {name.decode() for name in self.client.zrange(f"{self.prefix}due", 0, -1)}
        open_jobs = {
            job_id
            for job_id in self.tenant
            if self._record(job_id)[b"state"] in (b"queued", b"running")
        }
        assert due == open_jobs

    @invariant()
    def the_queues_agree_with_the_records(self) -> None:
        records = {job_id: self._record(job_id) for job_id in self.tenant}
        for lane in LANES:
            ready = {
                job_id
                for job_id, r in records.items()
                if r[b"state"] == b"queued" and r[b"lane"] == lane.value.encode()
                and b"not_before" not in r
            }  # fmt: skip
            name = f"{self.prefix}ready:{lane.value}"
            assert {i.decode() for i in self.client.zrange(name, 0, -1)} == ready
            tenants = {self.tenant[job_id] for job_id in ready}
            ring = self.client.zrange(f"{self.prefix}ring:{lane.value}", 0, -1)
            assert {t.decode() for t in ring} == tenants
            running = sum(
                r[b"state"] == b"running" and r[b"lane"] == lane.value.encode()
                for r in records.values()
            )
            assert int(self.client.hget(f"{self.prefix}running", lane.value) or 0) == running
        for tenant in TENANTS:
            open_jobs = sum(
                r[b"tenant"] == tenant.encode() and r[b"state"] in (b"queued", b"running")
                for r in records.values()
            )
            assert int(self.client.hget(f"{self.prefix}open", tenant) or 0) == open_jobs

    def teardown(self) -> None:
        for name in self.client.scan_iter(f"{self.prefix}*"):
            self.client.delete(name)


def test_ledger_state_machine(redis_client: redis.Redis) -> None:
    LedgerMachine.client = redis_client
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
