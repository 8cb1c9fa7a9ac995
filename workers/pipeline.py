"""What happens to a job on a worker: cache, router, provider, store."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from tasks.exact_cache import Answer
from tasks.fingerprint import last_user_text, tenant_pool
from tasks.inference import Attempt, InferenceRequest, InferenceResponse, Usage
from tasks.jobs import Job, JobState
from workers.cache.cache import CacheHit
from workers.context import WorkerContext
from workers.lease import Lease
from workers.providers.base import CallLimits, Completion
from workers.providers.errors import AllProvidersFailed, Cancelled, NoCapacity, ProviderError

logger = logging.getLogger(__name__)

RETRY_BASE_SECONDS = 2.0  # before the second run of a job; doubled for each further one
MIN_DEFER_SECONDS = 0.2  # a job that waits for its turn must not spin


@dataclass(frozen=True)
class Ended:
    """The job has its answer, or will never have one."""

    state: JobState
    result: bytes | None = None
    error: bytes | None = None
    attempts: bytes | None = None
    cache_ms: int = 0
    provider_ms: int = 0


@dataclass(frozen=True)
class Deferred:
    """The job runs again later."""

    delay_seconds: float
    counts: bool  # whether this run used up an attempt
    attempts: bytes | None = None
    cache_ms: int = 0
    provider_ms: int = 0


Outcome = Ended | Deferred


def run_job(current: WorkerContext, job: Job, lease: Lease) -> Outcome:
    """Answer the job's request from the cache or a provider.

    Nothing is written to the job here; what is returned still has to pass the fence.
    """
    started = time.monotonic()
    request = job.parsed_request()
    prompt, pool = last_user_text(request), tenant_pool(job.tenant)
    hit = current.cache.get_similar_cached_response(prompt, request=request, pool=pool)
    cache_ms = _milliseconds(started)
    if hit is not None:
        response = _from_cache(job, request, hit, started)
        return Ended(JobState.SUCCEEDED, result=_dump(response), cache_ms=cache_ms)

    asked = time.monotonic()
    left = (job.deadline_at - (job.started_at or job.deadline_at)) / 1000
    limits = CallLimits(
        deadline=started + left,
        connect_seconds=current.settings.provider_connect_seconds,
        first_byte_seconds=current.settings.provider_read_seconds,
        cancelled=lambda: lease.lost,
    )
    try:
        plan = current.router.route_request(request)
        completion, attempts = current.router.call(plan, limits=limits)
    except ProviderError as error:
        return _unanswered(job, error, left, cache_ms, _milliseconds(asked))
    provider_ms = _milliseconds(asked)
    response = _from_provider(job, request, completion, plan.notice, started)
    current.cache.cache_response(
        prompt, _answer(completion, provider_ms / 1000), request=request, pool=pool
    )
    return Ended(
        JobState.SUCCEEDED,
        result=_dump(response),
        attempts=_attempts(attempts),
        cache_ms=cache_ms,
        provider_ms=provider_ms,
    )


def internal_error(job: Job) -> Outcome:
    """What becomes of a job that a fault of our own stopped."""
    if job.attempt < job.max_attempts:
        return Deferred(_backoff(job), counts=True)
    return Ended(
        JobState.FAILED,
        error=_error("internal_error", "The job failed for a reason of ours. See the log."),
    )


def _unanswered(
    job: Job, error: ProviderError, left: float, cache_ms: int, provider_ms: int
) -> Outcome:
    """Defer what may succeed later and in time; otherwise fail and say why."""
    attempts = _attempts(error.attempts)
    waited = provider_ms / 1000
    if isinstance(error, NoCapacity):
        delay, counts = max(error.retry_after or 0.0, MIN_DEFER_SECONDS), False
    else:
        delay, counts = max(error.retry_after or 0.0, _backoff(job)), True
    later = isinstance(error, NoCapacity | Cancelled) or (
        isinstance(error, AllProvidersFailed) and error.retryable and job.attempt < job.max_attempts
    )
    if later and waited + delay < left:
        return Deferred(delay, counts, attempts, cache_ms, provider_ms)
    if isinstance(error, NoCapacity):
        message = f"No provider had capacity before the deadline. {error}"
    else:
        message = str(error)
    return Ended(
        JobState.FAILED,
        error=_error(error.type, message),
        attempts=attempts,
        cache_ms=cache_ms,
        provider_ms=provider_ms,
    )


def _backoff(job: Job) -> float:
    """Exponential with full jitter, from the second run on."""
    bound: float = RETRY_BASE_SECONDS * 2 ** max(job.attempt - 1, 0)
    return random.uniform(0.5, 1.0) * bound


def _from_provider(
    job: Job,
    request: InferenceRequest,
    completion: Completion,
    notice: str | None,
    started: float,
) -> InferenceResponse:
    return InferenceResponse(
        response=completion.text,
        provider=completion.provider,
        model=completion.model,
        finish_reason=completion.finish_reason,
        latency=_latency(job, started),
        tokens_used=completion.usage.total,
        usage=completion.usage,
        cost=completion.cost,
        cache_hit=False,
        request_id=job.request_id,
        created_at=datetime.now(UTC),
        metadata=request.metadata,
        notice=notice,
    )


def _from_cache(
    job: Job, request: InferenceRequest, hit: CacheHit, started: float
) -> InferenceResponse:
    answer = hit.answer
    return InferenceResponse(
        response=answer.text,
        provider=answer.provider,
        model=answer.model,
        finish_reason="stop",  # nothing else is stored
        latency=_latency(job, started),
        tokens_used=0,
        usage=Usage(),
        cost=0.0,
        saved=hit.saved_cost,
        cache_hit=True,
        cache=hit.as_response_field(),
        request_id=job.request_id,
        created_at=datetime.now(UTC),
        metadata=request.metadata,
    )


def _answer(completion: Completion, seconds: float) -> Answer:
    return Answer(
        text=completion.text,
        provider=completion.provider,
        model=completion.model,
        finish_reason=completion.finish_reason,
        usage=completion.usage,
        cost=completion.cost,
        latency=seconds,
    )


def _latency(job: Job, started: float) -> float:
    waited_ms = (job.started_at or job.created_at) - job.created_at
    return waited_ms / 1000 + time.monotonic() - started


def _milliseconds(since: float) -> int:
    return round((time.monotonic() - since) * 1000)


def _dump(response: InferenceResponse) -> bytes:
    return response.model_dump_json().encode()


def _error(kind: str, message: str) -> bytes:
    return orjson.dumps({"type": kind, "message": message})


def _attempts(attempts: Sequence[Attempt]) -> bytes:
    return orjson.dumps([attempt.model_dump() for attempt in attempts])
