"""Errors as clients see them: RFC 9457 problem documents with a stable `type`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import orjson
import redis
from flask import Flask, Response, g, request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge

from app.openai.errors import speaks_openai, translate
from app.refusals import describe
from tasks.batches import (
    BatchConflictError,
    BatchEndedError,
    TooManyBatchesError,
    UnknownBatchError,
)
from tasks.database import DatabaseDownError
from tasks.deliveries import EndpointDisabledError, UnknownDeliveryError
from tasks.files import NO_ROOM, FileStoreDownError, FileTooLargeError, UnknownFileError
from tasks.jobs import NewerRecordError
from tasks.ledger import (
    DeadlineUnreachableError,
    IdempotencyConflictError,
    JobEndedError,
    NotReplicatedError,
    QueueFullError,
    RefusedError,
    UnknownJobError,
)
from tasks.webhooks import TooManyEndpointsError, UnknownEndpointError

logger = logging.getLogger(__name__)

TYPE_BASE = "urn:inferenceflow:problem:"
CONTENT_TYPE = "application/problem+json"


class FieldFault(BaseModel):
    """One thing that is wrong with the input. The input itself is not repeated."""

    field: str
    message: str


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(title="Problem")

    type: str = Field(description="Stable: compare with this.")
    title: str
    status: int
    detail: str = Field(description="What happened and what to do.")
    request_id: str
    errors: list[FieldFault] | None = None


class Problem(Exception):
    """An error answer."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        errors: Sequence[FieldFault] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.errors = list(errors)
        self.headers = headers or {}

    def response(self) -> Response:
        """The problem document, or on OpenAI's paths an error in OpenAI's shape."""
        if speaks_openai(request.path):
            field = self.errors[0].field if self.errors else None
            answer = translate(self.status, self.kind, self.detail, field, self.headers)
            return Response(*answer, content_type="application/json")
        document: dict[str, Any] = {
            "type": TYPE_BASE + self.kind,
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "request_id": g.get("request_id", ""),
        }
        if self.errors:
            document["errors"] = [fault.model_dump() for fault in self.errors]
        return Response(
            orjson.dumps(document), self.status, self.headers, content_type=CONTENT_TYPE
        )


def validation_problem(error: ValidationError) -> Problem:
    """What pydantic found, without the input: it may be a prompt."""
    faults = error.errors(include_input=False, include_url=False, include_context=False)
    if faults and faults[0]["type"] == "json_invalid":
        return Problem(400, "malformed-json", f"The body is not valid JSON: {faults[0]['msg']}.")
    if faults and faults[0]["type"] == "model_type" and not faults[0]["loc"]:
        return Problem(400, "malformed-json", "The body must be a JSON object.")
    errors = [
        FieldFault(
            field=_field(fault["loc"]),
            message=fault["msg"].removeprefix("Value error, "),
        )
        for fault in faults[:20]
    ]
    first = errors[0]
    return Problem(422, "invalid-request", f"{first.field}: {first.message}", errors=errors)


def _field(loc: Sequence[int | str]) -> str:
    """The path to a field, without what pydantic calls the branches of a union."""
    parts = [str(part) for part in loc if not (isinstance(part, str) and "[" in part)]
    return ".".join(parts) or "body"


def _storage_down() -> Problem:
    return Problem(
        503,
        "storage-unavailable",
        "The job store does not answer. Nothing was accepted; try again.",
        headers={"Retry-After": "2"},
    )


def register_error_handlers(app: Flask) -> None:
    """Every error leaves the API as a problem document."""

    def problem(error: Problem) -> Response:
        return error.response()

    def http(error: HTTPException) -> Response:
        if error.response is not None:  # an answer made by a view, passed through abort()
            return error.response  # type: ignore[return-value]
        status = error.code or 500
        detail = error.description or HTTPStatus(status).phrase
        headers: dict[str, str] = {}
        if isinstance(error, RequestEntityTooLarge):
            limit = app.config["MAX_CONTENT_LENGTH"]
            detail = f"The body is larger than {limit} bytes. Send large inputs as a batch file."
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            headers["Allow"] = ", ".join(sorted(error.valid_methods))
        if status == 404:
            detail = f"There is nothing at {request.path}."
        kind = HTTPStatus(status).phrase.lower().replace(" ", "-")
        return Problem(status, kind, detail, headers=headers).response()

    def redis_down(error: redis.RedisError) -> Response:
        logger.warning(
            "job store unavailable",
            extra={"action": "storage_unavailable", "error": type(error).__name__},
        )
        return _storage_down().response()

    def redis_full(_error: redis.exceptions.OutOfMemoryError) -> Response:
        return Problem(
            503,
            "storage-full",
            "The job store is full. Nothing was accepted; try again later.",
            headers={"Retry-After": "30"},
        ).response()

    def not_replicated(error: NotReplicatedError) -> Response:
        logger.warning(
            "job not replicated",
            extra={"action": "not_replicated", "job_id": error.job_id},
        )
        return Problem(
            503,
            "not-replicated",
            "No replica of the job store has confirmed the job in time. It may run or be lost; "
            "repeat the request with the same Idempotency-Key.",
            headers={"Retry-After": "1"},
        ).response()

    def unknown_job(_error: UnknownJobError) -> Response:
        return Problem(
            404, "unknown-job", "No such job. It may have been deleted after its retention."
        ).response()

    def newer_record(_error: NewerRecordError) -> Response:
        return Problem(
            503,
            "newer-version",
            "The job was written by a newer version of this service, which is being brought in. "
            "Try again.",
            headers={"Retry-After": "2"},
        ).response()

    def job_ended(error: JobEndedError) -> Response:
        return Problem(
            409, "job-ended", f"The job has already ended: {error.state.value}."
        ).response()

    def conflict(error: IdempotencyConflictError) -> Response:
        if error.in_flight:
            detail = "This Idempotency-Key belongs to another request that is still in flight."
            return Problem(409, "idempotency-conflict", detail).response()
        detail = "This Idempotency-Key was used for a request with another body. Use a new key."
        return Problem(422, "idempotency-mismatch", detail).response()

    def queue_full(error: QueueFullError) -> Response:
        whose, status = ("Your tenant has", 429) if error.which == "tenant" else ("There are", 503)
        return Problem(
            status,
            "queue-full",
            f"{whose} {error.count} jobs in the queue, the most that is allowed. Try again later.",
            headers={"Retry-After": str(error.retry_after)},
        ).response()

    def too_late(error: DeadlineUnreachableError) -> Response:
        return Problem(
            503,
            "deadline-unreachable",
            f"At the present pace the job would start in about {error.eta_seconds} s, after its "
            f"deadline of {error.deadline_seconds:g} s. Try again later, with a longer "
            "deadline_seconds, or with a higher priority.",
            headers={"Retry-After": str(max(1, round(error.eta_seconds - error.deadline_seconds)))},
        ).response()

    def refused(error: RefusedError) -> Response:
        status, kind, detail, seconds = describe(error.refusal, datetime.now(UTC))
        headers = {} if seconds is None else {"Retry-After": str(seconds)}
        return Problem(status, kind, detail, headers=headers).response()

    def database_down(error: DatabaseDownError) -> Response:
        logger.warning(
            "account database unavailable",
            extra={"action": "database_unavailable", "error": str(error)},
        )
        return Problem(
            503,
            "accounts-unavailable",
            "The account database does not answer. Nothing was changed; try again.",
            headers={"Retry-After": "5"},
        ).response()

    def unknown_batch(_error: UnknownBatchError) -> Response:
        return Problem(404, "unknown-batch", "No such batch.").response()

    def batch_ended(_error: BatchEndedError) -> Response:
        return Problem(409, "batch-ended", "The batch has already ended.").response()

    def batch_conflict(_error: BatchConflictError) -> Response:
        detail = "This Idempotency-Key was used for a request with another body. Use a new key."
        return Problem(422, "idempotency-mismatch", detail).response()

    def too_many_batches(_error: TooManyBatchesError) -> Response:
        detail = "Your tenant has as many open batches as are allowed. Wait until one has ended."
        return Problem(429, "too-many-batches", detail, headers={"Retry-After": "60"}).response()

    def unknown_file(_error: UnknownFileError) -> Response:
        return Problem(404, "unknown-file", "No such file. It may have expired.").response()

    def file_too_large(error: FileTooLargeError) -> Response:
        detail = f"The file is larger than {error.most} bytes."
        return Problem(413, "request-entity-too-large", detail).response()

    def disk(error: OSError) -> Response:
        """A large form is kept in a temporary file while it is read."""
        if error.errno in NO_ROOM:
            return file_store_down(FileStoreDownError(full=True))
        return unexpected(error)

    def file_store_down(error: FileStoreDownError) -> Response:
        logger.warning(
            "file store unavailable",
            extra={
                "action": "file_store_unavailable",
                "full": error.full,
                "error": type(error.__cause__).__name__,
            },
        )
        what, kind = ("is full", "full") if error.full else ("does not answer", "unavailable")
        return Problem(
            503,
            f"file-storage-{kind}",
            f"The file store {what}. Nothing was accepted; try again later.",
            headers={"Retry-After": "30"},
        ).response()

    def unknown_endpoint(_error: UnknownEndpointError) -> Response:
        return Problem(404, "unknown-webhook", "No such webhook endpoint.").response()

    def unknown_delivery(_error: UnknownDeliveryError) -> Response:
        return Problem(404, "unknown-delivery", "No such delivery.").response()

    def endpoint_disabled(_error: EndpointDisabledError) -> Response:
        return Problem(409, "webhook-disabled", "Enable the endpoint first.").response()

    def too_many_endpoints(_error: TooManyEndpointsError) -> Response:
        detail = "Your tenant has as many webhook endpoints as are allowed. Delete one."
        return Problem(409, "too-many-webhooks", detail).response()

    def unexpected(error: Exception) -> Response:
        logger.error("unexpected error", exc_info=error, extra={"action": "unexpected_error"})
        return Problem(
            500, "internal-error", "Something went wrong here. Report the request id."
        ).response()

    app.register_error_handler(Problem, problem)
    app.register_error_handler(HTTPException, http)
    app.register_error_handler(redis.RedisError, redis_down)
    app.register_error_handler(redis.exceptions.OutOfMemoryError, redis_full)
    app.register_error_handler(NotReplicatedError, not_replicated)
    app.register_error_handler(UnknownJobError, unknown_job)
    app.register_error_handler(NewerRecordError, newer_record)
    app.register_error_handler(JobEndedError, job_ended)
    app.register_error_handler(IdempotencyConflictError, conflict)
    app.register_error_handler(QueueFullError, queue_full)
    app.register_error_handler(UnknownBatchError, unknown_batch)
    app.register_error_handler(BatchEndedError, batch_ended)
    app.register_error_handler(BatchConflictError, batch_conflict)
    app.register_error_handler(TooManyBatchesError, too_many_batches)
    app.register_error_handler(UnknownFileError, unknown_file)
    app.register_error_handler(FileTooLargeError, file_too_large)
    app.register_error_handler(OSError, disk)
    app.register_error_handler(FileStoreDownError, file_store_down)
    app.register_error_handler(UnknownEndpointError, unknown_endpoint)
    app.register_error_handler(UnknownDeliveryError, unknown_delivery)
    app.register_error_handler(EndpointDisabledError, endpoint_disabled)
    app.register_error_handler(TooManyEndpointsError, too_many_endpoints)
    app.register_error_handler(DeadlineUnreachableError, too_late)
    app.register_error_handler(RefusedError, refused)
    app.register_error_handler(DatabaseDownError, database_down)
    app.register_error_handler(Exception, unexpected)
