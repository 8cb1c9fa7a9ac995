"""The job: one frozen record, and the states it goes through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

import orjson

from tasks.inference import InferenceRequest, Priority

# Raised when an older worker could misread a record. Fields may come and go under one version:
# what a worker does not know it leaves alone, what it misses has a default.
RECORD_VERSION = 1


class NewerRecordError(Exception):
    """The job was written by a newer version, in a way that this one cannot read."""


def written_by(record: Mapping[bytes, bytes]) -> int:
    """The version of a record."""
    return int(record.get(b"v", b"1"))


class JobState(StrEnum):
    """queued -> running -> one of the four ends; a job whose worker died is queued again."""

    QUEUED = "queued"  # accepted: waiting for a worker, or for a later try
    RUNNING = "running"  # a worker holds its lease
    SUCCEEDED = "succeeded"  # has a response
    FAILED = "failed"  # has an error
    CANCELLED = "cancelled"  # ended by request
    EXPIRED = "expired"  # its deadline passed

    @property
    def terminal(self) -> bool:
        """Whether the job has ended. An end is final."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True)
class Job:
    """A job as the ledger holds it. Times are milliseconds since 1970, by Redis' clock."""

    id: str
    tenant: str
    user: str
    lane: Priority  # the queue that it waits in; ageing may have moved it up
    state: JobState
    request: bytes  # InferenceRequest as JSON; parsed when needed
    fingerprint: str  # of the request, for the exact cache and single flight
    request_id: str  # of the HTTP request that brought it
    created_at: int
    deadline_at: int
    fence: int  # fencing token: how often a lease was given or taken away
    attempt: int  # runs so far
    max_attempts: int
    started_at: int | None  # of the newest run
    finished_at: int | None
    not_before: int | None  # deferred until then
    worker: str | None
    queued_ms: int  # waiting for a worker, over all attempts
    cache_ms: int
    provider_ms: int
    total_ms: int | None
    result: bytes | None  # InferenceResponse as JSON
    error: bytes | None  # {"type", "message"} as JSON
    attempts: bytes | None  # list of Attempt as JSON
    traceparent: str | None  # W3C trace context of the submission
    version: int
    surface: bytes | None = None  # JSON: what another shape of the interface shows again

    @classmethod
    def from_record(cls, record: Mapping[bytes, bytes]) -> Self:
        """Build from a Redis hash. Fields unknown to this version are left alone.

        Raises NewerRecordError.
        """
        if written_by(record) > RECORD_VERSION:
            raise NewerRecordError(NewerRecordError.__doc__)

        def text(name: bytes) -> str | None:
            value = record.get(name)
            return None if value is None else value.decode()

        def number(name: bytes) -> int | None:
            value = record.get(name)
            return None if value is None else int(value)

        return cls(
            id=record[b"id"].decode(),
            tenant=record[b"tenant"].decode(),
            user=text(b"user") or "",
            lane=Priority(record[b"lane"].decode()),
            state=JobState(record[b"state"].decode()),
            request=record[b"request"],
            fingerprint=text(b"fingerprint") or "",
            request_id=text(b"request_id") or "",
            created_at=int(record[b"created_at"]),
            deadline_at=int(record[b"deadline_at"]),
            fence=int(record[b"fence"]),
            attempt=int(record[b"attempt"]),
            max_attempts=int(record[b"max_attempts"]),
            started_at=number(b"started_at"),
            finished_at=number(b"finished_at"),
            not_before=number(b"not_before"),
            worker=text(b"worker"),
            queued_ms=number(b"queued_ms") or 0,
            cache_ms=number(b"cache_ms") or 0,
            provider_ms=number(b"provider_ms") or 0,
            total_ms=number(b"total_ms"),
            result=record.get(b"result"),
            error=record.get(b"error"),
            attempts=record.get(b"attempts"),
            traceparent=text(b"traceparent"),
            version=written_by(record),
            surface=record.get(b"surface"),
        )

    def parsed_request(self) -> InferenceRequest:
        """The request."""
        return InferenceRequest.from_stored(self.request)

    def view(self) -> dict[str, Any]:
        """The job as a client sees it (without its place in the queue)."""
        return {
            "id": self.id,
            "object": "job",
            "state": self.state.value,
            "priority": self.lane.value,
            "created_at": _time(self.created_at),
            "started_at": _time(self.started_at),
            "finished_at": _time(self.finished_at),
            "deadline_at": _time(self.deadline_at),
            "not_before": _time(self.not_before),
            "attempt": self.attempt,
            "request_id": self.request_id,
            "timing": {
                "queued_ms": self.queued_ms,
                "cache_ms": self.cache_ms,
                "provider_ms": self.provider_ms,
                "total_ms": self.total_ms,
            },
            "attempts": orjson.loads(self.attempts) if self.attempts else [],
            "result": orjson.loads(self.result) if self.result else None,
            "error": orjson.loads(self.error) if self.error else None,
        }


def _time(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
