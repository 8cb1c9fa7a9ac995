"""Batches: a file of requests that run as jobs of their own, and end together.

The lines have been checked before a batch exists, and stand in the file store one prepared line
each. Slices of them are published as a Celery group; a slice makes its lines into jobs in one
step. Equal lines share a job. The ledger counts the lines as their jobs end; the step that counts
the last one sends the completion callback. Times are milliseconds since 1970 by Redis' clock.

batch:{id}            hash    the record, with a count of lines for each way to end
batch:{id}:pending    zset    slice -> ms from which on it may be published (again)
batch:{id}:seen       string  one bit for each line that has become, or joined, a job
batch:{id}:open       set     ids of its jobs that have not ended
batches:open          zset    batch id -> its deadline; until it is closed
batches:count         hash    tenant -> its open batches
batches:{tenant}      zset    batch id -> ms of acceptance, for listing
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self, cast

import orjson
import redis

from tasks.bills import Bill
from tasks.inference import Priority
from tasks.ledger import Idempotency
from tasks.messages import close_batch_message, run_message
from tasks.scripts import load_script

MAX_OPEN_BATCHES = 100  # of one tenant
RETAKE_MS = 30_000  # a published slice that has not come to run is published again after this
STOP_STEP = 500  # jobs ended in one script, about 20 ms of Redis time
BATCH_ID = r"^batch_[0-9a-f]{32}$"


class BatchError(Exception):
    """The batch cannot be had."""


class UnknownBatchError(BatchError):
    """No such batch."""


class BatchEndedError(BatchError):
    """The batch has already ended."""


class TooManyBatchesError(BatchError):
    """The tenant has too many open batches."""


class BatchConflictError(BatchError):
    """The idempotency key stands for a batch with another body."""


class BatchState(StrEnum):
    """in_progress (-> cancelling) -> finalizing -> completed | expired | cancelled."""

    FAILED = "failed"  # its lines were refused; it never ran
    IN_PROGRESS = "in_progress"
    CANCELLING = "cancelling"
    FINALIZING = "finalizing"  # every line has ended; the results are being written
    COMPLETED = "completed"
    EXPIRED = "expired"  # the completion window ended; what was done is kept
    CANCELLED = "cancelled"  # by request; what was done is kept

    @property
    def terminal(self) -> bool:
        """Whether nothing changes any more."""
        return self in (
            BatchState.FAILED, BatchState.COMPLETED, BatchState.EXPIRED, BatchState.CANCELLED
        )  # fmt: skip


@dataclass(frozen=True)
class Counts:
    """Lines by how they ended."""

    total: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int

    @property
    def ended(self) -> int:
        """Lines that have ended."""
        return self.succeeded + self.failed + self.cancelled + self.expired


@dataclass(frozen=True)
class NewBatch:
    """What `create` needs to know."""

    tenant: str
    user: str
    lane: Priority
    request_id: str
    lines_file: str  # id of the file of prepared lines
    total: int
    slices: Sequence[int]  # byte offset of the first line of each slice
    window_seconds: int
    window: str  # as the client wrote it
    keep_seconds: int  # the record, after the window
    endpoint: str  # of OpenAI's, or "" for the native form
    input_file: str = ""
    metadata: Mapping[str, str] | None = None
    webhook_url: str = ""
    idempotency: Idempotency = field(default_factory=Idempotency)


@dataclass(frozen=True)
class Batch:
    """A batch as it stands."""

    id: str
    tenant: str
    user: str
    lane: Priority
    state: BatchState
    counts: Counts
    request_id: str  # of the HTTP request that brought it
    window: str
    endpoint: str
    input_file: str
    lines_file: str
    results_file: str  # once it is closed
    output_file: str  # of OpenAI's form, if there are any such lines
    error_file: str
    usage: dict[str, Any] | None
    metadata: dict[str, str]
    slices: tuple[int, ...]
    stop: str  # why it was stopped: "cancelled", "expired" or ""
    errors: list[dict[str, Any]]  # of a failed one
    created_at: int
    deadline_at: int
    cancelling_at: int | None
    finalizing_at: int | None
    ended_at: int | None

    @classmethod
    def from_record(cls, record: Mapping[bytes, bytes]) -> Self:
        """Build from a Redis hash."""

        def text(name: bytes) -> str:
            return record.get(name, b"").decode()

        def number(name: bytes) -> int | None:
            value = record.get(name)
            return None if value is None else int(value)

        return cls(
            id=text(b"id"),
            tenant=text(b"tenant"),
            user=text(b"user"),
            lane=Priority(text(b"lane")),
            state=BatchState(text(b"state")),
            counts=Counts(
                *(
                    int(record.get(name, 0))
                    for name in (b"total", b"succeeded", b"failed", b"cancelled", b"expired")
                )
            ),
            request_id=text(b"request_id"),
            window=text(b"window"),
            endpoint=text(b"endpoint"),
            input_file=text(b"input_file"),
            lines_file=text(b"lines_file"),
            results_file=text(b"results_file"),
            output_file=text(b"output_file"),
            error_file=text(b"error_file"),
            usage=orjson.loads(record[b"usage"]) if b"usage" in record else None,
            metadata=orjson.loads(record.get(b"metadata", b"{}")),
            slices=tuple(orjson.loads(record.get(b"slices", b"[]"))),
            stop=text(b"stop"),
            errors=orjson.loads(record.get(b"errors", b"[]")),
            created_at=int(record[b"created_at"]),
            deadline_at=int(record[b"deadline_at"]),
            cancelling_at=number(b"cancelling_at"),
            finalizing_at=number(b"finalizing_at"),
            ended_at=number(b"ended_at"),
        )

    def eta_seconds(self, now: float | None = None) -> float | None:
        """Seconds to the end at the mean speed so far; None before the first line has ended."""
        left = self.counts.total - self.counts.ended
        if self.state.terminal or not self.counts.ended:
            return None
        elapsed = (time.time() if now is None else now) - self.created_at / 1000
        return round(max(elapsed, 0.0) * left / self.counts.ended, 1)


@dataclass(frozen=True)
class PreparedLine:
    """One line of a batch as it stands in the file of prepared lines."""

    index: int  # from 0, without gaps
    number: int  # of the line in the client's file, from 1
    custom_id: str
    key: str  # equal lines of one batch have the same and share a job
    fingerprint: str
    tokens: int  # estimate
    metadata: dict[str, str]
    request: str  # InferenceRequest as JSON
    reserve: tuple[int, int] | None  # nano-dollars and tokens of the budget, at most

    def dump(self) -> bytes:
        """As one line of JSON, with its end."""
        fields = [
            self.index, self.number, self.custom_id, self.key, self.fingerprint, self.tokens,
            self.metadata, self.request, self.reserve,
        ]  # fmt: skip
        return orjson.dumps(fields) + b"\n"

    @classmethod
    def load(cls, line: bytes) -> Self:
        """The opposite of `dump`."""
        return cls(*orjson.loads(line))


@dataclass(frozen=True)
class Expansion:
    """What came of a slice."""

    made: int  # jobs
    joined: int  # lines that share the job of an equal line
    waits: str  # why the rest must wait: "cold" (account not loaded), JSON of a refusal, or ""


def new_batch_id() -> str:
    """An id that cannot be guessed."""
    return f"batch_{secrets.token_hex(16)}"


def member_job_id(batch_id: str, key: str) -> str:
    """The id of the job that answers the lines with this key: always the same one."""
    return f"job_{hashlib.sha256(f'{batch_id}/{key}'.encode()).hexdigest()[:32]}"


class Batches:
    """The operations on batches on one Redis."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._redis = client
        self._prefix = prefix
        self._message = run_message()
        self._callback = close_batch_message()
        self._create = load_script(client, "batch_create", when_full=False)
        self._take = load_script(client, "batch_take")
        self._expand = load_script(client, "batch_expand", when_full=False)
        self._stop = load_script(client, "batch_stop")
        self._close = load_script(client, "batch_close")

    def key(self, *parts: str) -> str:
        """The full name of a key."""
        return self._prefix + ":".join(parts)

    def _call(self, script: Any, *args: object) -> Any:
        return script(args=[self._prefix, self._message, *args])

    def create(self, batch: NewBatch, batch_id: str | None = None) -> tuple[str, bool]:
        """Accept a batch. Returns its id and whether it is new (False: replayed by its key).

        Raises BatchConflictError, TooManyBatchesError, redis.RedisError.
        """
        fields: list[object] = [
            "user", batch.user,
            "lane", batch.lane.value,
            "request_id", batch.request_id,
            "lines_file", batch.lines_file,
            "total", batch.total,
            "slices", orjson.dumps(list(batch.slices)),
            "window", batch.window,
            "endpoint", batch.endpoint,
            "input_file", batch.input_file,
            "metadata", orjson.dumps(dict(batch.metadata or {})),
            "webhook_url", batch.webhook_url,
            "callback", self._callback,
        ]  # fmt: skip
        reply = self._call(
            self._create,
            batch_id or new_batch_id(),
            batch.tenant,
            batch.window_seconds * 1000,
            len(batch.slices),
            batch.idempotency.key,
            batch.idempotency.body_hash,
            batch.idempotency.seconds,
            "1" if batch.idempotency.repeated else "",
            batch.keep_seconds * 1000,
            MAX_OPEN_BATCHES,
            *fields,
        )
        outcome = reply[0]
        if outcome == b"conflict":
            raise BatchConflictError(BatchConflictError.__doc__)
        if outcome == b"full":
            raise TooManyBatchesError(TooManyBatchesError.__doc__)
        return reply[1].decode(), outcome == b"created"

    def record_failure(self, batch: NewBatch, errors: list[dict[str, Any]]) -> str:
        """Keep a batch whose lines were refused, for clients that learn of it by polling."""
        batch_id, now = new_batch_id(), time.time_ns() // 1_000_000
        record: dict[Any, Any] = {
            "id": batch_id,
            "tenant": batch.tenant,
            "user": batch.user,
            "lane": batch.lane.value,
            "state": BatchState.FAILED.value,
            "total": 0,
            "window": batch.window,
            "endpoint": batch.endpoint,
            "input_file": batch.input_file,
            "metadata": orjson.dumps(dict(batch.metadata or {})),
            "errors": orjson.dumps(errors),
            "created_at": now,
            "deadline_at": now + batch.window_seconds * 1000,
            "ended_at": now,
        }
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(self.key("batch", batch_id), mapping=record)
        pipe.expire(self.key("batch", batch_id), batch.keep_seconds)
        pipe.zadd(self.key("batches", batch.tenant), {batch_id: now})
        pipe.xadd(
            self.key("events"),
            {
                "type": "batch.failed",
                "tenant": batch.tenant,
                "subject": batch_id,
                "webhook_url": batch.webhook_url,
                "data": orjson.dumps({"errors": len(errors)}),
            },
            maxlen=100_000,
        )
        pipe.execute()
        return batch_id

    def read(self, batch_id: str, tenant: str | None) -> Batch:
        """The batch. Raises UnknownBatchError, also for one of a tenant other than `tenant`."""
        record = cast("dict[bytes, bytes]", self._redis.hgetall(self.key("batch", batch_id)))
        if not record or (tenant is not None and record[b"tenant"] != tenant.encode()):
            raise UnknownBatchError(UnknownBatchError.__doc__)
        return Batch.from_record(record)

    def page(self, tenant: str, *, after: str | None = None, limit: int = 20) -> list[Batch]:
        """A tenant's batches, newest first; `after` is the id of the last one seen."""
        name, start = self.key("batches", tenant), 0
        if after is not None:
            rank = cast("int | None", self._redis.zrevrank(name, after))
            if rank is None:
                raise UnknownBatchError(UnknownBatchError.__doc__)
            start = rank + 1
        ids = cast("list[bytes]", self._redis.zrevrange(name, start, start + limit - 1))
        pipe = self._redis.pipeline(transaction=False)
        for batch_id in ids:
            pipe.hgetall(self.key("batch", batch_id.decode()))
        return [Batch.from_record(record) for record in pipe.execute() if record]

    def open_batches(self) -> list[tuple[str, BatchState, float]]:
        """Every batch that is not closed: id, state, and seconds that its window has left."""
        seconds, micros = self._redis.time()
        found = cast(
            "list[tuple[bytes, float]]",
            self._redis.zrange(self.key("batches:open"), 0, -1, withscores=True),
        )
        pipe = self._redis.pipeline(transaction=False)
        for batch_id, _ in found:
            pipe.hget(self.key("batch", batch_id.decode()), "state")
        now = seconds + micros / 1e6
        return [
            (batch_id.decode(), BatchState(state.decode()), deadline / 1000 - now)
            for (batch_id, deadline), state in zip(found, pipe.execute(), strict=True)
            if state is not None
        ]

    def take_slices(self, batch_id: str, *, open_lines: int, slice_lines: int) -> list[int]:
        """Slices to publish now, as far as the tenant's open jobs stay below `open_lines`."""
        taken = self._call(self._take, batch_id, open_lines, slice_lines, RETAKE_MS, 100)
        return [int(number) for number in taken]

    def expand(
        self,
        batch_id: str,
        number: int,
        lines: Sequence[tuple[PreparedLine, bytes | None]],
        *,
        retention_seconds: int,
        max_attempts: int,
    ) -> Expansion | None:
        """Make jobs of a slice's lines, each given with its answer if that is already known.

        Returns None if the batch was stopped.
        """
        now = time.gmtime()
        flat: list[object] = []
        for line, answer in lines:
            flat += (
                line.index,
                member_job_id(batch_id, line.key),
                line.fingerprint,
                line.tokens,
                line.request,
                answer or b"",
                Bill.of(answer).dump() if answer else b"",
                *(line.reserve or ("", "")),
            )
        made, joined, wait = self._call(
            self._expand,
            batch_id,
            number,
            time.strftime("%Y%m%d%H", now),
            time.strftime("%M", now),
            retention_seconds * 1000,
            max_attempts,
            *flat,
        )
        return None if made < 0 else Expansion(made, joined, wait.decode())

    def cancel(self, batch_id: str, tenant: str) -> None:
        """Start to cancel; the next tick goes on if there is much to end.

        Raises UnknownBatchError or BatchEndedError.
        """
        outcome = self.stop_step(batch_id, tenant, BatchState.CANCELLED)
        if outcome == "unknown":
            raise UnknownBatchError(UnknownBatchError.__doc__)
        if outcome == "ended":
            raise BatchEndedError(BatchEndedError.__doc__)

    def stop_step(self, batch_id: str, tenant: str, state: BatchState) -> str:
        """One step of ending what is open: "unknown", "ended", "more" or "done"."""
        why = (
            "The completion window of the batch ended before this line was done."
            if state is BatchState.EXPIRED
            else "The batch was cancelled by request."
        )
        reply: bytes = self._call(self._stop, batch_id, tenant, state.value, why, STOP_STEP)
        return reply.decode()

    def close(
        self,
        batch_id: str,
        *,
        results_file: str,
        output_file: str,
        error_file: str,
        usage: Mapping[str, Any],
    ) -> bool:
        """Write the end of a batch whose results are stored. False: another call did."""
        fields = [
            "results_file", results_file,
            "output_file", output_file,
            "error_file", error_file,
            "usage", orjson.dumps(usage),
        ]  # fmt: skip
        return bool(self._call(self._close, batch_id, orjson.dumps(dict(usage)), *fields))
