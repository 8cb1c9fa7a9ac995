"""Taking a request in: check, look for an exact repeat, admit, record.

Redis round trips: 1 for the repeat (see app/repeats.py), 1 for rate limit, admission and record
together.
"""

from __future__ import annotations

import difflib
import hashlib
import time
from datetime import UTC, datetime

from flask import g, request

from app.identity import Caller
from app.problems import FieldFault, Problem
from app.services import Services
from config.catalogue import AUTO, Catalogue
from tasks.cache_hit import cached_response
from tasks.egress import ForbiddenURLError, check_url
from tasks.fingerprint import fingerprint, last_user_text
from tasks.inference import InferenceRequest, InferenceSubmission
from tasks.ledger import AccountNotLoadedError, Idempotency, Limits, NewJob, Snapshot, new_job_id
from tasks.metrics import CACHE

MAX_IDEMPOTENCY_KEY = 255
RETRY_SECONDS = 3600  # a client library may wait ten minutes for each of a few tries
CHARS_PER_TOKEN = 4  # a rough estimate is enough to count arriving work
DEFAULT_OUTPUT_TOKENS = 256


def check_model(catalogue: Catalogue, preference: str) -> None:
    """Raises Problem 422 for a model, alias or route that the catalogue does not have."""
    if preference == AUTO:
        return
    try:
        catalogue.resolve(preference)
    except KeyError:
        names = [AUTO, *catalogue.routes, *(model.id for model in catalogue.models)]
        close = difflib.get_close_matches(preference, names, n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise Problem(
            422,
            "unknown-model",
            f"There is no model, alias or route of that name; see /v1/models.{hint}",
            errors=[FieldFault(field="model_preference", message="unknown model")],
        ) from None


def check_webhook_url(
    services: Services, url: str | None, *, resolve: bool, field: str = "webhook_url"
) -> None:
    """Raises Problem 422 for a URL that webhooks are not sent to; None is fine.

    `resolve`: ask the name service, which may take its time.
    """
    if url is None:
        return
    try:
        check_url(url, services.egress, resolve=resolve)
    except ForbiddenURLError as error:
        raise Problem(
            422,
            "invalid-request",
            f"{field}: {error}.",
            errors=[FieldFault(field=field, message=str(error))],
        ) from None


def idempotency(caller: Caller, body: bytes) -> Idempotency:
    """The client's Idempotency-Key, or a retry that the client marked as one.

    OpenAI's client libraries send no key but count their retries from 0: a retry is the same
    request as the latest with the same body, while a first try is always a new one. Raises
    Problem 400 for a bad key.
    """
    body_hash = hashlib.sha256(request.path.encode() + body).hexdigest()
    key = request.headers.get("Idempotency-Key", "")
    if key:
        if len(key) > MAX_IDEMPOTENCY_KEY or not key.isprintable():
            raise Problem(
                400,
                "bad-idempotency-key",
                f"Idempotency-Key must be 1 to {MAX_IDEMPOTENCY_KEY} printable characters.",
            )
        return Idempotency(f"{caller.user}:key:{key}", body_hash)
    retries = request.headers.get("X-Stainless-Retry-Count")
    if retries is None:
        return Idempotency()
    return Idempotency(
        f"{caller.user}:retry:{body_hash}", body_hash, RETRY_SECONDS, repeated=retries != "0"
    )


def submit(
    services: Services,
    caller: Caller,
    submission: InferenceSubmission,
    *,
    body: bytes,
    channel: str = "",
    job_id: str | None = None,
    surface: bytes | None = None,
    retention_seconds: int | None = None,
) -> tuple[Snapshot, bool]:
    """Accept a submission; returns the job and whether it is new.

    `surface`: what to keep with the job beside the request, to show it in another shape.

    Raises Problem, RateLimitedError, IdempotencyConflictError, QueueFullError,
    DeadlineUnreachableError, RefusedError, DatabaseDownError, redis.RedisError.
    """
    settings = services.settings
    check_model(services.catalogue, submission.model_preference)
    check_webhook_url(services, submission.webhook_url, resolve=False)
    asked = InferenceRequest.model_construct(
        **vars(submission),
        user_id=caller.user,
        created_at=datetime.now(UTC),
    )
    scope = services.repeats.rules.scope(submission, caller.tenant)
    text, pool = last_user_text(submission), scope.pool
    name = fingerprint(scope, text)
    looked = time.monotonic()
    with services.tracing.span("cache lookup") as span:
        hit = services.repeats.find(submission, text, name, pool)
        span.add({"inferenceflow.cache.layer": hit.layer if hit else "none"})
    answer, cache_ms = None, 0
    if hit is not None:
        seconds = time.monotonic() - looked
        cache_ms = round(seconds * 1000)
        answer = cached_response(
            hit, latency=seconds, request_id=g.request_id, metadata=submission.metadata
        )
    deadline = submission.deadline_seconds or settings.default_deadline_seconds
    prompt_chars = len(submission.prompt or "") + sum(
        len(message.text) for message in submission.messages or ()
    )
    job = NewJob(
        tenant=caller.tenant,
        user=caller.user,
        lane=submission.priority,
        request=asked.model_dump_json(exclude_defaults=True).encode(),
        fingerprint=name,
        request_id=g.request_id,
        deadline_seconds=deadline,
        retention_seconds=retention_seconds or settings.job_retention_seconds,
        max_attempts=settings.max_attempts,
        estimated_tokens=prompt_chars // CHARS_PER_TOKEN
        + (submission.max_tokens or DEFAULT_OUTPUT_TOKENS),
        traceparent=g.get("traceparent"),
        idempotency=idempotency(caller, body),
        surface=surface,
        webhook_url=submission.webhook_url,
        reserve=services.prices.reserve(submission)
        if settings.budgets_enabled and answer is None
        else None,
        result=answer.model_dump_json().encode() if answer else None,
        cache_ms=cache_ms,
    )
    snapshot, created = record(services, job, channel=channel, job_id=job_id)
    if hit is not None and created:
        services.repeats.count(submission, pool, hit)
        services.metrics.increment_cache_hit()
        services.metrics.record_job_end("succeeded", submission.priority.value)
        services.metrics.record_request_latency(time.perf_counter() - g.began, CACHE)
    return snapshot, created


def record(
    services: Services, job: NewJob, *, channel: str = "", job_id: str | None = None
) -> tuple[Snapshot, bool]:
    """Write an admitted job to the ledger; returns it and whether it is new.

    One Redis round trip, but for a tenant that Redis does not know yet, whose account is then
    loaded from SQL. Raises as `submit` does.
    """
    settings = services.settings
    limits = Limits(settings.max_queue_depth, settings.max_tenant_queue_depth)
    job_id = job_id or new_job_id()
    try:
        return services.ledger.submit(
            job, limits=limits, channel=channel, job_id=job_id, rate=g.rate
        )
    except AccountNotLoadedError:
        services.accounts.load(job.tenant)
        return services.ledger.submit(
            job, limits=limits, channel=channel, job_id=job_id, rate=g.rate
        )


def submit_and_wait(
    services: Services,
    caller: Caller,
    submission: InferenceSubmission,
    *,
    body: bytes,
    seconds: float,
    surface: bytes | None = None,
    retention_seconds: int | None = None,
    patient: bool = False,
) -> tuple[Snapshot, bool]:
    """As `submit`; returns the job as it ended, or as it stands after `seconds`.

    `patient`: as `WaitHub.wait` says.
    """
    hub, job_id = services.hub, new_job_id()
    hub.check_room(caller.tenant)
    with hub.watching(caller.tenant, job_id) as event:
        snapshot, created = submit(
            services,
            caller,
            submission,
            body=body,
            channel=hub.channel,
            job_id=job_id,
            surface=surface,
            retention_seconds=retention_seconds,
        )
        if created and snapshot.job.state.terminal:  # an exact repeat
            return snapshot, True
        if created:
            return hub.wait(
                services.ledger,
                job_id,
                caller.tenant,
                seconds,
                event,
                registered=True,
                patient=patient,
            ), True
    job_id = snapshot.job.id
    with hub.watching(caller.tenant, job_id) as event:
        return hub.wait(
            services.ledger, job_id, caller.tenant, seconds, event, patient=patient
        ), False
