"""The job ledger: the one truth about every job.

Celery messages are hints that something is ready; they may be lost or doubled. Whether a job
runs, who may end it and what came of it is decided here, each step by one Lua script, which is
one Redis round trip:

submit (API) 1 · claim (worker) 1 · renew (a worker process, every third of a lease) 1 · finish 1
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import redis

from config.celery import INFERENCE_QUEUES
from tasks.bills import Bill
from tasks.inference import Priority
from tasks.jobs import RECORD_VERSION, Job, JobState, written_by
from tasks.messages import run_message
from tasks.rate import RateWindow
from tasks.replication import Replication, call_replicated
from tasks.scripts import load_script

logger = logging.getLogger(__name__)

IDEMPOTENCY_SECONDS = 86_400
NEWER_WAIT_MS = 2_000  # for a worker that can read the job
# An entry of a tenant's list outlives the longest deadline by the retention of its job.
LONGEST_DEADLINE_MS = 604_800_000
# Seconds within which a worker shall take a job.
WAIT_OBJECTIVES = {Priority.HIGH: 5.0, Priority.NORMAL: 60.0, Priority.LOW: 300.0}


class LedgerError(Exception):
    """The ledger refused."""


class IdempotencyConflictError(LedgerError):
    """The idempotency key stands for a job with another body."""

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(self.__doc__)
        self.job_id = job_id
        self.in_flight = state in ("queued", "running")


class RateLimitedError(LedgerError):
    """More requests than the client may send in a window of time."""


class QueueFullError(LedgerError):
    """Too much work is waiting."""

    def __init__(self, which: str, count: int, retry_after: int) -> None:
        super().__init__(self.__doc__)
        self.which = which  # "all" or "tenant"
        self.count = count
        self.retry_after = retry_after  # seconds, from the measured drain rate


class DeadlineUnreachableError(LedgerError):
    """At the pace of its lane the job could not start before its deadline."""

    def __init__(self, eta_seconds: int, deadline_seconds: float) -> None:
        super().__init__(self.__doc__)
        self.eta_seconds = eta_seconds  # until it could start
        self.deadline_seconds = deadline_seconds


class RefusedError(LedgerError):
    """A budget or a limit of the account does not allow the job."""

    def __init__(self, refusal: dict[str, Any]) -> None:
        super().__init__(self.__doc__)
        self.refusal = refusal  # as `admit` in tasks/lua/spend.lua made it


class AccountNotLoadedError(LedgerError):
    """Redis does not know what the tenant may spend; load it from SQL and try again."""


class NotReplicatedError(LedgerError):
    """No replica has confirmed the job in time. It may run; repeating the call is safe."""

    def __init__(self, job_id: str) -> None:
        super().__init__(self.__doc__)
        self.job_id = job_id


class UnknownJobError(LedgerError):
    """No such job."""


class JobEndedError(LedgerError):
    """The job has already ended."""

    def __init__(self, state: JobState) -> None:
        super().__init__(self.__doc__)
        self.state = state


@dataclass(frozen=True)
class Idempotency:
    """What makes a repeated request the same job."""

    key: str = ""  # unique within the tenant; empty: every request is a new job
    body_hash: str = ""  # of what must not differ under one key
    seconds: int = IDEMPOTENCY_SECONDS  # how long the key is remembered
    repeated: bool = True  # False: surely a first try, which takes the key over


@dataclass(frozen=True)
class Reserve:
    """The most that a job is expected to use."""

    nano: int  # nano-dollars
    tokens: int


@dataclass(frozen=True)
class NewJob:
    """What `submit` needs to know."""

    tenant: str
    user: str
    lane: Priority
    request: bytes  # InferenceRequest as JSON
    fingerprint: str
    request_id: str
    deadline_seconds: float
    retention_seconds: int
    max_attempts: int
    estimated_tokens: int = 0
    traceparent: str | None = None
    idempotency: Idempotency = Idempotency()
    listed: bool = True
    # An answer that is already known: the job is recorded as ended and never queued.
    result: bytes | None = None
    cache_ms: int = 0  # that finding it took
    # What to hold of the budgets until the job ends; None: neither budgets nor account limits.
    reserve: Reserve | None = None
    # Beside the request: what another shape of the public interface has to show again.
    surface: bytes | None = None
    webhook_url: str | None = None


@dataclass(frozen=True)
class Limits:
    """When to refuse new work."""

    waiting: int = 200_000  # jobs in all
    open_per_tenant: int = 100_000  # jobs of one tenant that have not ended


@dataclass(frozen=True)
class Snapshot:
    """A job as it stands, with its place in the queue while it waits."""

    job: Job
    queue_position: int | None  # 1 is next; an estimate, as tenants take turns
    eta_seconds: float | None  # until it starts; only while its lane is never empty


@dataclass(frozen=True)
class LaneLoad:
    """What a lane holds."""

    ready: int
    running: int
    oldest_seconds: float  # age of the job that has waited longest; 0 when none waits
    messages: int  # Celery messages not yet taken


@dataclass(frozen=True)
class Sweep:
    """What one step of the reconciler did."""

    looked: int
    expired: int
    recovered: int
    dead: int
    woken: int
    hinted: int
    aged: int


def new_job_id() -> str:
    """An id that cannot be guessed."""
    return f"job_{secrets.token_hex(16)}"


class Ledger:
    """The ledger's operations on one Redis."""

    def __init__(
        self,
        client: redis.Redis,
        prefix: str,
        *,
        replication: Replication | None = None,
        objectives: Mapping[Priority, float] | None = None,
    ) -> None:
        """`objectives`: seconds per lane after which a job's first run counts as late."""
        self._redis = client
        self._replication = replication
        self._objectives = WAIT_OBJECTIVES if objectives is None else objectives
        self._prefix = prefix
        self._message = run_message()
        self._submit = load_script(client, "submit", when_full=False)
        self._claim = load_script(client, "claim")
        self._renew = load_script(client, "renew")
        self._finish = load_script(client, "finish")
        self._defer = load_script(client, "defer")
        self._cancel = load_script(client, "cancel")
        self._wait = load_script(client, "wait")
        self._sweep = load_script(client, "sweep")
        self._wake = load_script(client, "wake")

    def key(self, *parts: str) -> str:
        """The full name of a ledger key (listed in tasks/lua/prelude.lua)."""
        return self._prefix + ":".join(parts)

    def _call(self, script: Any, *args: object) -> Any:
        return script(args=[self._prefix, self._message, *args])

    def _call_safely(self, script: Any, *args: object) -> tuple[Any, bool]:
        """The reply, and whether it would survive the loss of the primary, if that was asked."""
        if self._replication is None:
            return self._call(script, *args), True
        return call_replicated(
            self._redis, script, [self._prefix, self._message, *args], self._replication
        )

    def submit(
        self,
        job: NewJob,
        *,
        limits: Limits,
        channel: str = "",
        job_id: str | None = None,
        rate: RateWindow | None = None,
    ) -> tuple[Snapshot, bool]:
        """Accept a job. Returns it and whether it is new (False: replayed by its key).

        `channel` is told when the job moves. `rate`: count the request in this window, unless it
        was counted before. Raises RateLimitedError, IdempotencyConflictError, QueueFullError,
        DeadlineUnreachableError, RefusedError, AccountNotLoadedError, NotReplicatedError (only
        with `replication`), redis.OutOfMemoryError when Redis is full, redis.ConnectionError,
        redis.TimeoutError.
        """
        job_id = job_id or new_job_id()
        now = time.gmtime()
        retention_ms = job.retention_seconds * 1000
        fields: list[object] = [
            "v", RECORD_VERSION,
            "user", job.user,
            "request", job.request,
            "fingerprint", job.fingerprint,
            "request_id", job.request_id,
            "max_attempts", job.max_attempts,
            "retention_ms", retention_ms,
        ]  # fmt: skip
        if job.traceparent:
            fields += ["traceparent", job.traceparent]
        if job.result is not None:
            fields += ["result", job.result, "bill", Bill.of(job.result).dump()]
            fields += ["cache_ms", job.cache_ms]
        elif job.reserve is not None:
            fields += ["reserve_nano", job.reserve.nano, "reserve_tokens", job.reserve.tokens]
        if job.surface is not None:
            fields += ["surface", job.surface]
        if job.webhook_url:
            fields += ["webhook_url", job.webhook_url]
        counting: tuple[object, ...] = "", 0, 0
        if rate is not None and rate.count is None:
            counting = rate.key, rate.most, rate.seconds
        reply, safe = self._call_safely(
            self._submit,
            job_id,
            job.tenant,
            job.lane.value,
            round(job.deadline_seconds * 1000),
            job.idempotency.key,
            job.idempotency.body_hash,
            job.idempotency.seconds,
            limits.waiting,
            limits.open_per_tenant,
            channel,
            time.strftime("%Y%m%d%H", now),
            time.strftime("%M", now),
            job.estimated_tokens,
            JobState.SUCCEEDED.value if job.result is not None else "",
            "1" if job.listed else "",
            retention_ms + LONGEST_DEADLINE_MS,
            "1" if job.idempotency.repeated else "",
            *counting,
            *fields,
        )
        count, left_ms, reply = reply
        if rate is not None and counting[0]:
            rate.note(count, left_ms)
        outcome = reply[0].decode()
        if outcome == "limited":
            raise RateLimitedError(RateLimitedError.__doc__)
        if outcome == "conflict":
            raise IdempotencyConflictError(reply[1].decode(), reply[2].decode())
        if outcome == "full":
            raise QueueFullError(reply[1].decode(), int(reply[2]), int(reply[3]))
        if outcome == "late":
            raise DeadlineUnreachableError(int(reply[1]), job.deadline_seconds)
        if outcome == "cold":
            raise AccountNotLoadedError(AccountNotLoadedError.__doc__)
        if outcome == "refused":
            raise RefusedError(orjson.loads(reply[1]))
        if not safe:
            raise NotReplicatedError(reply[1].decode() if outcome == "exists" else job_id)
        if outcome == "exists":
            return self.read(reply[1].decode(), job.tenant, channel=channel), False
        return _accepted(job, job_id, *map(int, reply[1:])), True

    def claim(self, lane: Priority, worker: str, lease_seconds: float) -> Job | None:
        """Take the lane's next job, tenants in turn; None when nothing is ready."""
        return self._take(worker, lease_seconds, "", [lane])

    def claim_more(
        self, lanes: Iterable[Priority], worker: str, lease_seconds: float
    ) -> Job | None:
        """Like `claim`, of the first lane that has a job, for a worker without a message for it."""
        return self._take(worker, lease_seconds, "1", lanes)

    def _take(
        self, worker: str, lease_seconds: float, instead: str, lanes: Iterable[Priority]
    ) -> Job | None:
        asked: list[object] = []
        for lane in lanes:
            asked += lane.value, round(self._objectives[lane] * 1000)
        reply = self._call(self._claim, worker, round(lease_seconds * 1000), instead, *asked)
        if not reply:
            return None
        record = _pairs(reply)
        if written_by(record) > RECORD_VERSION:
            # A newer API's: it waits, without using up an attempt, for a worker that can read it.
            job_id, fence = record[b"id"], record[b"fence"]
            self._call(self._defer, job_id, fence, NEWER_WAIT_MS, "")
            logger.warning(
                "job of a newer version left alone",
                extra={"action": "newer_record", "job_id": job_id.decode()},
            )
            return None
        return Job.from_record(record)

    def renew(self, held: Sequence[tuple[str, int]], lease_seconds: float) -> list[bool]:
        """Renew leases given as (job id, fence); False where one was lost."""
        if not held:
            return []
        flat: list[object] = [part for pair in held for part in pair]
        return [bool(ok) for ok in self._call(self._renew, round(lease_seconds * 1000), *flat)]

    def finish(
        self,
        job: Job,
        state: JobState,
        *,
        result: bytes | None = None,
        error: bytes | None = None,
        attempts: bytes | None = None,
        cache_ms: int = 0,
        provider_ms: int = 0,
    ) -> bool:
        """End a claimed job. False: the lease was lost, and nothing was written."""
        fields = _outcome(result, error, attempts, cache_ms, provider_ms)
        return bool(self._call(self._finish, job.id, job.fence, state.value, *fields))

    def defer(
        self,
        job: Job,
        delay_seconds: float,
        *,
        counts: bool,
        attempts: bytes | None = None,
        cache_ms: int = 0,
        provider_ms: int = 0,
    ) -> bool:
        """Put a claimed job back for `delay_seconds`. False: the lease was lost.

        `counts`: whether the run uses up one of its attempts.
        """
        fields = _outcome(None, None, attempts, cache_ms, provider_ms)
        return bool(
            self._call(
                self._defer,
                job.id,
                job.fence,
                math.ceil(delay_seconds * 1000),
                "1" if counts else "",
                *fields,
            )
        )

    def wake(self, job_ids: Sequence[str]) -> int:
        """End the waiting of deferred jobs; returns how many became ready."""
        return int(self._call(self._wake, *job_ids)) if job_ids else 0

    def cancel(self, job_id: str, tenant: str) -> None:
        """Cancel a job. Raises UnknownJobError (also for another tenant's) or JobEndedError."""
        outcome, state = self._call(self._cancel, job_id, tenant)
        if outcome == b"unknown":
            raise UnknownJobError(UnknownJobError.__doc__)
        if outcome == b"ended":
            raise JobEndedError(JobState(state.decode()))

    def read(self, job_id: str, tenant: str, *, channel: str = "") -> Snapshot:
        """The job as it stands; with `channel`, have that told of its next moves.

        Raises UnknownJobError, also for another tenant's job, and NewerRecordError.
        """
        record, place, tenants, wait_ms = self._call(self._wait, job_id, channel)
        fields = _pairs(record)
        if fields.get(b"tenant") != tenant.encode():
            raise UnknownJobError(UnknownJobError.__doc__)
        return Snapshot(Job.from_record(fields), _position(place, tenants), _seconds(int(wait_ms)))

    def page(
        self, tenant: str, *, before: tuple[int, str] | None = None, limit: int = 20
    ) -> list[Job]:
        """A tenant's jobs, newest first; `before` is (created_at, id) of the last one seen."""
        name = self.key("jobs", tenant)
        newest = "+inf" if before is None else before[0]
        offset, found = 0, list[Job]()
        while len(found) < limit:
            rows: Any = self._redis.zrevrangebyscore(
                name, newest, "-inf", start=offset, num=limit * 2, withscores=True
            )
            if not rows:
                break
            offset += len(rows)
            # Entries of the same millisecond are ordered by id, downwards.
            ids = [
                id_ for id_, score in rows if before is None or (int(score), id_.decode()) < before
            ]
            pipe = self._redis.pipeline(transaction=False)
            for id_ in ids:
                pipe.hgetall(self.key("job", id_.decode()))
            found += [Job.from_record(record) for record in pipe.execute() if record]
        return found[:limit]

    def loads(self) -> dict[Priority, LaneLoad]:
        """What every lane holds, in one round trip."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.time()
        pipe.hgetall(self.key("running"))
        for queue in INFERENCE_QUEUES:
            lane = queue.removeprefix("inference.")
            pipe.zcard(self.key("ready", lane))
            pipe.zrange(self.key("ready", lane), 0, 0, withscores=True)
            pipe.llen(self.key(f"broker:{queue}"))
        (seconds, micros), running, *rest = pipe.execute()
        now_us = seconds * 1_000_000 + micros
        loads = {}
        for place, queue in enumerate(INFERENCE_QUEUES):
            lane = queue.removeprefix("inference.")
            ready, oldest, messages = rest[place * 3 : place * 3 + 3]
            age = (now_us - oldest[0][1]) / 1e6 if oldest else 0.0
            loads[Priority(lane)] = LaneLoad(
                ready, int(running.get(lane.encode(), 0)), max(age, 0.0), messages
            )
        return loads

    def sweep(self, *, most: int = 1000, age_low_seconds: float = 300.0) -> Sweep:
        """One step of the reconciler. `most` bounds the jobs it looks at."""
        return Sweep(*self._call(self._sweep, most, round(age_low_seconds * 1000)))


def _position(place: int, tenants: int) -> int | None:
    """The place of a job in its lane, of which its tenant gets every `tenants`-th turn."""
    return None if place < 0 else place * max(tenants, 1) + 1


def _seconds(wait_ms: int) -> float | None:
    return None if wait_ms < 0 else wait_ms / 1000


def _accepted(
    job: NewJob,
    job_id: str,
    created_at: int,
    deadline_at: int,
    place: int,
    tenants: int,
    wait_ms: int,
) -> Snapshot:
    """A job as it was just written; saves reading it back."""
    ended = job.result is not None
    return Snapshot(
        Job(
            id=job_id,
            tenant=job.tenant,
            user=job.user,
            lane=job.lane,
            state=JobState.SUCCEEDED if ended else JobState.QUEUED,
            request=job.request,
            fingerprint=job.fingerprint,
            request_id=job.request_id,
            created_at=created_at,
            deadline_at=deadline_at,
            fence=0,
            attempt=0,
            max_attempts=job.max_attempts,
            started_at=None,
            finished_at=created_at if ended else None,
            not_before=None,
            worker=None,
            queued_ms=0,
            cache_ms=job.cache_ms,
            provider_ms=0,
            total_ms=job.cache_ms if ended else None,
            result=job.result,
            error=None,
            attempts=None,
            traceparent=job.traceparent,
            version=RECORD_VERSION,
            surface=job.surface,
        ),
        _position(place, tenants),
        _seconds(wait_ms),
    )


def _outcome(
    result: bytes | None,
    error: bytes | None,
    attempts: bytes | None,
    cache_ms: int,
    provider_ms: int,
) -> Iterable[object]:
    fields: list[object] = ["cache_ms", cache_ms, "provider_ms", provider_ms]
    bill = Bill.of(result).dump() if result is not None else None
    for name, value in (
        ("result", result),
        ("error", error),
        ("attempts", attempts),
        ("bill", bill),
    ):
        if value is not None:
            fields += [name, value]
    return fields


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
