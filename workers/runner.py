"""One run of one job: claim, hold the lease, run the pipeline, end or defer.

Redis round trips of a job that misses the cache, beside Celery's own: claim 1, exact lookup 1,
semantic search 1, flight 1, router 2, store 1, release 1, finish 1. A lease is renewed with all
others of the process; counters are summed up and written once a second.

Taking, noting and acknowledging a message costs kombu's one thread more than a quick job costs
(see docs/performance.md). A thread that is through with a job therefore claims the next by itself
for a while, together with the message that stands for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager

import orjson
import redis
import tenacity
from celery import current_app
from celery.worker import state as worker_state

from config.celery import INFERENCE_QUEUES, WeightedCycle
from config.logs import log_context
from tasks.inference import Priority
from tasks.jobs import Job
from tasks.metrics import Metrics
from tasks.tracing import Span, parent_headers
from workers.context import WorkerContext, context
from workers.lease import Lease
from workers.pipeline import Deferred, Ended, Outcome, internal_error, run_job

logger = logging.getLogger(__name__)

# A result in hand is worth waiting for Redis to come back; the fence still decides.
KEEP_TRYING_SECONDS = 60


# How long a thread goes on by itself. Short, because control tasks wait for a thread meanwhile;
# jobs that take longer than this do not feel what a message costs.
ONE_MESSAGE_SECONDS = 1.0

_turns = WeightedCycle()  # of the lanes, for all threads of this process


def run_next(lane: Priority) -> None:
    """Run the job that is next in `lane`, if any, and those that follow within a second.

    A message without a job does no harm.
    """
    current = context()
    seconds = current.settings.lease_seconds
    until = time.monotonic() + ONE_MESSAGE_SECONDS
    job = current.ledger.claim(lane, current.worker, seconds)
    while job is not None:
        _run_one(current, job)
        if time.monotonic() >= until or _told_to_stop():
            return
        job = current.ledger.claim_more(_lanes(), current.worker, seconds)


def _told_to_stop() -> bool:
    """Celery notes a signal as True or as an exit code, of which one is 0 and equals False."""
    stop = worker_state.should_stop
    return stop is not None and stop is not False


def _lanes() -> Iterable[Priority]:
    """The lanes that this worker serves, the one whose turn it is in front."""
    queues = [name for name in current_app.amqp.queues.consume_from if name in INFERENCE_QUEUES]
    return (Priority(name.removeprefix("inference.")) for name in _turns.order(queues))


def _run_one(current: WorkerContext, job: Job) -> None:
    started = time.monotonic()
    if job.fence == 1:
        current.metrics.record_queue_wait(job.lane.value, job.queued_ms / 1000)
    with (
        _traced(current, job) as span,
        log_context(
            job_id=job.id, tenant=job.tenant, request_id=job.request_id, **span.log_fields()
        ),
        current.leases.holding(job) as lease,
    ):
        outcome = _run(current, job, lease)
        _describe(span, outcome)
        current.streams.close(job, outcome.result if isinstance(outcome, Ended) else None)
        if _conclude(current, job, outcome):
            _measure(current.metrics, job, outcome, time.monotonic() - started)
        else:
            current.metrics.record_lease_loss()
            logger.warning(
                "result refused: the lease was lost",
                extra={"action": "stale_result", "fence": job.fence},
            )


def _traced(current: WorkerContext, job: Job) -> AbstractContextManager[Span]:
    """The run as a step of the trace that the job's submission began.

    The first run also tells of the wait before it. A job without a trace (a line of a batch) gets
    one of its own.
    """
    parent = job.traceparent
    about = {
        "inferenceflow.job.id": job.id,
        "inferenceflow.tenant": job.tenant,
        "inferenceflow.priority": job.lane.value,
    }
    if job.attempt == 1:
        waited = current.tracing.past(
            "queue wait",
            job.created_at,
            job.started_at or job.created_at,
            about,
            parent=parent_headers(parent),
        )
        parent = parent or waited.traceparent
    return current.tracing.span(
        f"run {job.lane.value}",
        "consumer",
        {**about, "inferenceflow.job.attempt": job.attempt},
        parent=parent_headers(parent),
    )


def _describe(span: Span, outcome: Outcome) -> None:
    if isinstance(outcome, Deferred):
        span.add({"inferenceflow.job.state": "deferred"})
        return
    span.add({"inferenceflow.job.state": outcome.state.value})
    if outcome.error is not None:
        span.fail(str(orjson.loads(outcome.error)["type"]))


def _run(current: WorkerContext, job: Job, lease: Lease) -> Outcome:
    try:
        return run_job(current, job, lease)
    except Exception:  # the border of the task: a fault of ours must still end the job
        logger.exception("job failed unexpectedly", extra={"action": "job_crashed"})
        return internal_error(job)


def _measure(metrics: Metrics, job: Job, outcome: Outcome, seconds: float) -> None:
    """Count what became of a run that took `seconds` from its claim."""
    if isinstance(outcome, Deferred):
        metrics.record_deferral("retry" if outcome.counts else "wait")
        return
    metrics.record_job_end(outcome.state.value, job.lane.value)
    if outcome.provider:
        before = ((job.started_at or job.created_at) - job.created_at) / 1000
        metrics.record_request_latency(before + seconds, outcome.provider)


def _conclude(current: WorkerContext, job: Job, outcome: Outcome) -> bool:
    """Write what became of a run; False when the lease was lost. Waits for Redis to come back."""
    try:
        kept = _write(current, job, outcome)
    except redis.RedisError:
        kept = _keep_writing(current, job, outcome)
    if kept:
        logger.info(
            "job ended" if isinstance(outcome, Ended) else "job deferred",
            extra={
                "action": "job_ended" if isinstance(outcome, Ended) else "job_deferred",
                "state": outcome.state.value if isinstance(outcome, Ended) else "queued",
                "attempt": job.attempt,
                "queued_ms": job.queued_ms,
                "cache_ms": outcome.cache_ms,
                "provider_ms": outcome.provider_ms,
            },
        )
    return kept


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(redis.RedisError),
    wait=tenacity.wait_exponential(multiplier=0.2, max=2),
    stop=tenacity.stop_after_delay(KEEP_TRYING_SECONDS),
    reraise=True,
)
def _keep_writing(current: WorkerContext, job: Job, outcome: Outcome) -> bool:
    return _write(current, job, outcome)


def _write(current: WorkerContext, job: Job, outcome: Outcome) -> bool:
    match outcome:
        case Ended():
            return current.ledger.finish(
                job,
                outcome.state,
                result=outcome.result,
                error=outcome.error,
                attempts=outcome.attempts,
                cache_ms=outcome.cache_ms,
                provider_ms=outcome.provider_ms,
            )
        case Deferred():
            return current.ledger.defer(
                job,
                outcome.delay_seconds,
                counts=outcome.counts,
                attempts=outcome.attempts,
                cache_ms=outcome.cache_ms,
                provider_ms=outcome.provider_ms,
            )
