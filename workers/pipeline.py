"""What happens to a job on a worker: cache, router, provider, store."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from tasks.cache_hit import CacheHit, cached_response
from tasks.exact_cache import Answer
from tasks.inference import Attempt, InferenceRequest, InferenceResponse, Usage
from tasks.jobs import Job, JobState
from tasks.metrics import CACHE
from tasks.tracing import Attributes
from workers.cache.cache import Found
from workers.cache.hit import Lookup
from workers.context import WorkerContext
from workers.lease import Lease
from workers.providers.base import CallLimits, Completion
from workers.providers.errors import AllProvidersFailed, Cancelled, NoCapacity, ProviderError
from workers.single_flight import Follow, Landed, Lead
from workers.stream import StreamWriter

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
    provider: str = ""  # who answered; CACHE when nobody had to be asked


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
    stream = current.streams.open(job, lease) if request.stream else None
    lookup = current.cache.read(request, pool=current.cache.rules.pool(job.tenant))
    with current.tracing.span("cache lookup") as span:
        found = current.cache.search([lookup])[0] if lookup.plan.used else Found()
        span.add(_looked(found.hit))
    hit, cache_ms = found.hit, _milliseconds(started)
    if hit is not None:
        current.shadow.consider(hit, lookup, request, job.tenant)
        response = _from_cache(job, request, hit, started)
        return Ended(JobState.SUCCEEDED, result=_dump(response), cache_ms=cache_ms, provider=CACHE)
    call = _Call(current, job, lease, request, stream, started, cache_ms, lookup, found)
    if not lookup.plan.exact:  # each such request wants an answer of its own
        return call.ask()
    joined = current.flights.try_lead(
        lookup.fingerprint, job.id, current.settings.lease_seconds * 2, since_ms=job.created_at
    )
    if isinstance(joined, Landed):
        current.metrics.record_flight("landed")
        response = _from_flight(job, request, joined, started)
        return Ended(JobState.SUCCEEDED, result=_dump(response), cache_ms=cache_ms, provider=CACHE)
    if isinstance(joined, Follow):
        current.metrics.record_flight("waited")
        wait = min(joined.retry_seconds + MIN_DEFER_SECONDS, current.settings.lease_seconds * 2)
        return Deferred(wait, counts=False, cache_ms=cache_ms)
    return call.lead(joined)


@dataclass(frozen=True)
class _Call:
    """A provider call that nothing could spare."""

    current: WorkerContext
    job: Job
    lease: Lease
    request: InferenceRequest
    stream: StreamWriter | None
    started: float
    cache_ms: int
    lookup: Lookup
    found: Found

    def lead(self, lead: Lead) -> Outcome:
        """Ask for all that want the same now, and wake them when the answer is there."""
        flights, seconds = self.current.flights, self.current.settings.lease_seconds * 2
        self.lease.on_renewed = lambda: flights.renew(lead, seconds)
        outcome: Outcome | None = None
        try:
            outcome = self.ask()
        finally:
            self.lease.on_renewed = None
            answer = outcome.result if isinstance(outcome, Ended) else None
            followers = flights.release(lead, result_ready=bool(answer), answer=answer or b"")
            self.current.ledger.wake(followers)
        return outcome

    def ask(self) -> Outcome:
        """Ask the providers, and keep the answer if the cache may."""
        current, job = self.current, self.job
        asked = time.monotonic()
        left = (job.deadline_at - (job.started_at or job.deadline_at)) / 1000
        limits = CallLimits(
            deadline=self.started + left,
            connect_seconds=current.settings.provider_connect_seconds,
            first_byte_seconds=current.settings.provider_read_seconds,
            cancelled=lambda: self.lease.lost,
        )
        try:
            plan = current.router.route_request(self.request)
            completion, attempts = current.router.call(
                plan,
                limits=limits,
                on_delta=self.stream.delta if self.stream else None,
                on_restart=self.stream.restart if self.stream else None,
            )
        except ProviderError as error:
            return _unanswered(job, error, left, self.cache_ms, _milliseconds(asked))
        provider_ms = _milliseconds(asked)
        current.metrics.record_completion(
            job.tenant,
            completion.provider,
            completion.model,
            completion.usage,
            completion.cost,
            completion.first_token_seconds,
        )
        response = _from_provider(job, self.request, completion, plan.notice, self.started)
        current.cache.store_answer(
            self.lookup,
            _answer(completion, provider_ms / 1000),
            self.found.vector,
            generations=self.found.generations,
        )
        return Ended(
            JobState.SUCCEEDED,
            result=_dump(response),
            attempts=_attempts(attempts),
            cache_ms=self.cache_ms,
            provider_ms=provider_ms,
            provider=completion.provider,
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
    return cached_response(
        hit,
        latency=_latency(job, started),
        request_id=job.request_id,
        metadata=request.metadata,
    )


def _from_flight(
    job: Job, request: InferenceRequest, landed: Landed, started: float
) -> InferenceResponse:
    """The answer to the same request, asked for by another job at the same time."""
    given = InferenceResponse.from_stored(landed.answer)
    return given.model_copy(
        update={
            "latency": _latency(job, started),
            "tokens_used": 0,
            "usage": Usage(),
            "cost": 0.0,
            "saved": given.cost,
            "cache_hit": True,
            "cache": {"layer": "flight"},
            "request_id": job.request_id,
            "metadata": request.metadata,
        }
    )


def _looked(hit: CacheHit | None) -> Attributes:
    if hit is None:
        return {"inferenceflow.cache.layer": "none"}
    return {
        "inferenceflow.cache.layer": hit.layer,
        "inferenceflow.cache.similarity": hit.similarity,
    }


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
