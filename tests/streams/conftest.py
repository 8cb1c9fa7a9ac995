"""Jobs that run, without a worker."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from tasks.inference import Priority
from tasks.jobs import Job
from tasks.ledger import Ledger, Limits, NewJob
from tasks.streams import JobStreams

Start = Callable[..., Job]


@pytest.fixture
def streams(redis_client: redis.Redis, prefix: str) -> JobStreams:
    return JobStreams(redis_client, prefix)


@pytest.fixture
def start(ledger: Ledger) -> Start:
    """Submits a job and claims it."""

    def started(tenant: str = "acme") -> Job:
        ledger.submit(
            NewJob(
                tenant=tenant,
                user="ann",
                lane=Priority.NORMAL,
                request=b'{"user_id":"ann","created_at":"2026-01-01T00:00:00Z","prompt":"hi"}',
                fingerprint="f",
                request_id="r",
                deadline_seconds=60,
                retention_seconds=600,
                max_attempts=3,
            ),
            limits=Limits(),
        )
        job = ledger.claim(Priority.NORMAL, "worker-1", 30)
        assert job is not None
        return job

    return started
