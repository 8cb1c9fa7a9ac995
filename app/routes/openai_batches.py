"""Batches, in OpenAI's shape."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from flask import Response, g, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.batch_intake import BadLinesError, Faults, Intake, take_lines
from app.batch_lines import openai_line
from app.batch_options import Window, window_seconds
from app.documents import Parameters, openai_answers
from app.identity import Caller, caller
from app.openai_jobs import json_answer
from app.problems import Problem
from app.routes.batch import BatchPath, wake
from app.routes.files import list_object
from app.services import Services, services
from app.submission import idempotency
from tasks.batches import Batch, BatchState, NewBatch
from tasks.files import UnknownFileError
from tasks.inference import Metadata, Priority
from tasks.jsonl import read_lines

batches_api = APIBlueprint(
    "batches",
    __name__,
    url_prefix="/v1/batches",
    abp_tags=[Tag(name="Batches, as OpenAI's", description="With the client library of OpenAI.")],
    abp_security=[{"token": []}],
)


class BatchRequest(BaseModel):
    """As OpenAI's `POST /v1/batches`; any window from 5m to 7d is honoured."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: Annotated[str, StringConstraints(max_length=100)]
    endpoint: Literal["/v1/chat/completions", "/v1/responses"]
    completion_window: Window
    metadata: Metadata | None = None


class BatchesQuery(Parameters):
    """A page of batches."""

    limit: int = Field(default=20, ge=1, le=100)
    after: str | None = Field(default=None, max_length=100, description="The last id seen.")


@batches_api.post(
    "", summary="Create a batch", responses=openai_answers(200, 400, 401, 404, 409, 429, 503)
)
def create_batch(body: BatchRequest) -> Response:
    """Of an uploaded file. If lines are refused, the batch is `failed` and its `errors` say why."""
    current, who = services(), caller()
    window = window_seconds(body.completion_window)
    keep = current.settings.file_retention_seconds
    try:
        stored = current.files.get(body.input_file_id, who.tenant)
    except UnknownFileError:
        stored = None
    if stored is None or not stored.listed:
        raise Problem(404, "unknown-file", f"No such file: '{body.input_file_id}'.")
    lines = read_lines(current.files.chunks(stored), current.settings.max_body_bytes)
    try:
        intake = take_lines(current, who, lines, openai_line(body.endpoint), window + keep)
    except BadLinesError as error:
        batch = _new(current, who, body, None)
        batch_id = current.batches.record_failure(batch, _errors(error.faults))
    except Problem as problem:
        if problem.status >= 500:
            raise
        errors = [{"code": problem.kind, "message": problem.detail, "param": None, "line": None}]
        batch_id = current.batches.record_failure(_new(current, who, body, None), errors)
    else:
        batch_id, created = current.batches.create(_new(current, who, body, intake))
        if created:
            wake()
        else:
            current.files.delete(intake.file.id, who.tenant)
    return json_answer(batch_object(current.batches.read(batch_id, who.tenant)))


@batches_api.get("", summary="List batches", responses=openai_answers(200, 404))
def list_openai_batches(query: BatchesQuery) -> Response:
    """The tenant's batches, newest first."""
    found = services().batches.page(caller().tenant, after=query.after, limit=query.limit)
    return json_answer(list_object([batch_object(batch) for batch in found], query.limit))


@batches_api.get("/<batch_id>", summary="Look at a batch", responses=openai_answers(200, 401, 404))
def get_openai_batch(path: BatchPath) -> Response:
    """Counts while it runs; the files of its results when it has ended."""
    return json_answer(batch_object(services().batches.read(path.batch_id, caller().tenant)))


@batches_api.post(
    "/<batch_id>/cancel",
    summary="Cancel a batch",
    responses=openai_answers(200, 400, 401, 404),
)
def cancel_openai_batch(path: BatchPath) -> Response:
    """What is done is kept."""
    current, who = services(), caller()
    current.batches.cancel(path.batch_id, who.tenant)
    wake()
    return json_answer(batch_object(current.batches.read(path.batch_id, who.tenant)))


def _new(current: Services, who: Caller, body: BatchRequest, intake: Intake | None) -> NewBatch:
    return NewBatch(
        tenant=who.tenant,
        user=who.user,
        lane=Priority.LOW,
        request_id=g.request_id,
        lines_file=intake.file.id if intake else "",
        total=intake.total if intake else 0,
        slices=intake.slices if intake else [],
        window_seconds=window_seconds(body.completion_window),
        window=body.completion_window,
        keep_seconds=current.settings.file_retention_seconds,
        endpoint=body.endpoint,
        input_file=body.input_file_id,
        metadata=body.metadata,
        idempotency=idempotency(who, request.get_data()),
    )


def _errors(faults: Faults) -> list[dict[str, Any]]:
    return [
        {
            "code": "invalid_request",
            "line": fault.line,
            "message": f"{fault.field}: {fault.message}" if fault.field else fault.message,
            "param": fault.field or None,
        }
        for fault in faults.reported
    ]


def batch_object(batch: Batch) -> dict[str, Any]:
    """The batch in OpenAI's shape."""
    counts, state = batch.counts, batch.state
    unanswered = counts.failed + counts.cancelled + counts.expired
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint or "/v1/chat/completions",
        "errors": {"object": "list", "data": batch.errors} if batch.errors else None,
        "input_file_id": batch.input_file,
        "completion_window": batch.window,
        "status": state.value,
        "output_file_id": batch.output_file or None,
        "error_file_id": batch.error_file or None,
        "created_at": batch.created_at // 1000,
        "in_progress_at": None if state is BatchState.FAILED else batch.created_at // 1000,
        "expires_at": batch.deadline_at // 1000,
        "finalizing_at": _seconds(batch.finalizing_at),
        "completed_at": _ended(batch, BatchState.COMPLETED),
        "failed_at": _ended(batch, BatchState.FAILED),
        "expired_at": _ended(batch, BatchState.EXPIRED),
        "cancelling_at": _seconds(batch.cancelling_at),
        "cancelled_at": _ended(batch, BatchState.CANCELLED),
        "request_counts": {
            "total": counts.total,
            "completed": counts.succeeded,
            "failed": unanswered,
        },
        "usage": _usage(batch.usage) if batch.usage else None,
        "metadata": batch.metadata or None,
    }


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    return {
        "input_tokens": usage["input_tokens"],
        "input_tokens_details": {"cached_tokens": usage["cached_tokens"]},
        "output_tokens": usage["output_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["input_tokens"] + usage["output_tokens"],
    }


def _seconds(milliseconds: int | None) -> int | None:
    return None if milliseconds is None else milliseconds // 1000


def _ended(batch: Batch, state: BatchState) -> int | None:
    return _seconds(batch.ended_at) if batch.state is state else None
