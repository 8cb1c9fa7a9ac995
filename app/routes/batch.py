"""Batches, native: submit, look at, read results of, cancel."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson
from celery.exceptions import OperationalError
from flask import Response, current_app, g, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, Field, ValidationError

from app.batch_documents import BatchPage, BatchView
from app.batch_intake import BadLinesError, HashedChunks, take_lines
from app.batch_lines import native_line
from app.batch_options import BatchOptions, BatchSubmission, window_seconds
from app.documents import Parameters, problems
from app.identity import Caller, caller
from app.problems import Problem, validation_problem
from app.services import Services, services
from app.submission import check_webhook_url, idempotency
from tasks.batch_results import line_results
from tasks.batches import Batch, NewBatch, UnknownBatchError
from tasks.files import CHUNK_BYTES, pieces
from tasks.jsonl import Line, read_array, read_lines
from tasks.signatures import tick_batches

batch_api = APIBlueprint(
    "batch",
    __name__,
    url_prefix="/v1/batch",
    abp_tags=[Tag(name="Batches", description="Many prompts in one file.")],
    abp_security=[{"token": []}],
)

MULTIPART_ROOM = 100_000  # bytes for the form around a file
RAW_TYPES = (
    "application/jsonl", "application/x-jsonlines", "application/x-ndjson", "text/plain",
    "application/octet-stream",
)  # fmt: skip


class BatchPath(BaseModel):
    """Names a batch."""

    batch_id: str = Field(max_length=100, description="The id from the submission.")


class BatchListQuery(Parameters):
    """A page of batches."""

    limit: int = Field(default=20, ge=1, le=100)
    cursor: str | None = Field(
        default=None, max_length=100, description="`next_cursor` of the page before."
    )


_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {
            "application/jsonl": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            },
            "application/json": {
                "schema": {
                    "anyOf": [
                        {"type": "array", "items": {"type": "object"}},
                        {"type": "object"},
                    ]
                }
            },
        },
    }
}


@batch_api.post(
    "",
    summary="Submit a batch",
    responses={"202": BatchView, **problems(400, 401, 409, 413, 415, 422, 429, 503)},
    openapi_extensions=_SCHEMA,
)
def submit_batch() -> Response:
    """A JSONL file (raw, or as `file` of a form), a JSON array, or a JSON object with `requests`
    or `input_file_id`. Every line is checked before anything is accepted. Options stand in the
    query of a raw upload, in the form, or in the object.
    """
    current, who = services(), caller()
    request.max_content_length = current.settings.batch_max_bytes + MULTIPART_ROOM
    options, lines, hashed = _read_body(current, who)
    batch_id, created = accept_batch(current, who, options, lines, hashed)
    view = native_view(current.batches.read(batch_id, who.tenant))
    response = _json(view, 202)
    response.headers["Location"] = f"/v1/batch/{batch_id}"
    if not created:
        response.headers["Idempotency-Replayed"] = "true"
    return response


@batch_api.get(
    "", summary="List batches, newest first", responses={"200": BatchPage, **problems(400)}
)
def list_batches(query: BatchListQuery) -> Response:
    """The tenant's batches. Give `next_cursor` back as `cursor` for the next page."""
    try:
        found = services().batches.page(caller().tenant, after=query.cursor, limit=query.limit)
    except UnknownBatchError:
        raise Problem(
            400, "bad-cursor", "Give `next_cursor` of the page before, unchanged."
        ) from None
    more = len(found) == query.limit
    return _json(
        {
            "data": [native_view(batch) for batch in found],
            "next_cursor": found[-1].id if more else None,
        },
        200,
    )


@batch_api.get(
    "/<batch_id>", summary="Look at a batch", responses={"200": BatchView, **problems(401, 404)}
)
def get_batch(path: BatchPath) -> Response:
    """Counts and an estimate of the end; the results of what is done can be read at any time."""
    batch = services().batches.read(path.batch_id, caller().tenant)
    return _json(native_view(batch), 200)


@batch_api.get(
    "/<batch_id>/results",
    summary="Read results",
    responses={
        "200": {"description": "JSONL", "content": {"application/jsonl": {}}},
        **problems(401, 404),
    },
)
def batch_results(path: BatchPath) -> Response:
    """One line of JSON for each line that has ended, in the order of the input. While the batch
    runs, these are the lines that are done so far.
    """
    current = services()
    batch = current.batches.read(path.batch_id, caller().tenant)
    response = current_app.response_class(
        _result_lines(current, batch), mimetype="application/jsonl"
    )
    response.headers["X-Batch-State"] = batch.state.value
    return response


@batch_api.post(
    "/<batch_id>/cancel",
    summary="Cancel a batch",
    responses={"200": BatchView, **problems(401, 404, 409)},
)
def cancel_batch(path: BatchPath) -> Response:
    """What is done stays and can be read; what waits never runs; what runs is broken off."""
    current, who = services(), caller()
    current.batches.cancel(path.batch_id, who.tenant)
    wake()
    return _json(native_view(current.batches.read(path.batch_id, who.tenant)), 200)


def accept_batch(
    current: Services,
    who: Caller,
    options: BatchOptions,
    lines: Iterable[Line],
    hashed: HashedChunks,
) -> tuple[str, bool]:
    """Check and store the lines, create the batch. Returns its id and whether it is new."""
    window = window_seconds(options.completion_window)
    check_webhook_url(current, options.webhook_url, resolve=True)
    keep = current.settings.file_retention_seconds
    try:
        intake = take_lines(current, who, lines, native_line, window + keep)
    except BadLinesError as error:
        raise error.problem() from None
    asked = options.model_dump_json(exclude={"requests"}).encode()
    batch_id, created = current.batches.create(
        NewBatch(
            tenant=who.tenant,
            user=who.user,
            lane=options.priority,
            request_id=g.request_id,
            lines_file=intake.file.id,
            total=intake.total,
            slices=intake.slices,
            window_seconds=window,
            window=options.completion_window,
            keep_seconds=keep,
            endpoint="",
            metadata=options.metadata,
            webhook_url=options.webhook_url or "",
            idempotency=idempotency(who, hashed.digest() + asked),
        )
    )
    if created:
        wake()
    else:
        current.files.delete(intake.file.id, who.tenant)
    return batch_id, created


def wake() -> None:
    """Have batches looked at now and not at the next tick."""
    with suppress(OperationalError):
        tick_batches.apply_async()


def _read_body(current: Services, who: Caller) -> tuple[BatchOptions, Iterator[Line], HashedChunks]:
    """Options, lines, and what hashes the body as the lines are read."""
    most_line = current.settings.max_body_bytes
    if request.mimetype == "multipart/form-data":
        upload = request.files.get("file")
        if upload is None:
            raise Problem(422, "invalid-request", "file: the form needs a file of this name.")
        options = _form_options(request.form.to_dict())
        hashed = HashedChunks(pieces(upload.stream, current.settings.batch_max_bytes))
        return options, _by_first_byte(hashed, most_line), hashed
    chunks = pieces(request.stream, current.settings.batch_max_bytes)
    if request.mimetype in RAW_TYPES:
        hashed = HashedChunks(chunks)
        return _form_options(request.args.to_dict()), _by_first_byte(hashed, most_line), hashed
    if not request.is_json:
        raise Problem(
            415,
            "unsupported-media-type",
            "Send JSONL as application/jsonl or as `file` of a form, or application/json.",
        )
    first = next(chunks, b"")
    if not first.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        hashed = HashedChunks(itertools.chain([first], chunks))
        return _form_options(request.args.to_dict()), read_array(hashed, most_line), hashed
    return _read_object(current, who, first, chunks)


def _read_object(
    current: Services, who: Caller, first: bytes, chunks: Iterator[bytes]
) -> tuple[BatchOptions, Iterator[Line], HashedChunks]:
    body = bytearray(first)
    for chunk in chunks:
        body += chunk
        if len(body) > current.settings.max_body_bytes:
            raise Problem(
                413,
                "request-entity-too-large",
                f"A JSON object has at most {current.settings.max_body_bytes} bytes here. "
                "Send JSONL or a JSON array, which are read as a stream.",
            )
    try:
        submission = BatchSubmission.model_validate_json(bytes(body))
    except ValidationError as error:
        raise validation_problem(error) from None
    if (submission.input_file_id is None) == (submission.requests is None):
        raise Problem(422, "invalid-request", "Give exactly one of `requests` and `input_file_id`.")
    most_line = current.settings.max_body_bytes
    if submission.input_file_id is not None:
        stored = current.files.get(submission.input_file_id, who.tenant)
        hashed = HashedChunks(current.files.chunks(stored))
        return submission, _by_first_byte(hashed, most_line), hashed
    hashed = HashedChunks(orjson.dumps(one) + b"\n" for one in submission.requests or ())
    return submission, read_lines(hashed, most_line), hashed


def _by_first_byte(chunks: Iterable[bytes], most: int) -> Iterator[Line]:
    """Lines of JSONL, or the items if the text is one JSON array."""
    rest = iter(chunks)
    first = next(rest, b"")
    whole = itertools.chain([first], rest)
    if first.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        return read_array(whole, most)
    return read_lines(whole, most)


def _form_options(fields: dict[str, str]) -> BatchOptions:
    given: dict[str, Any] = dict(fields)
    if "metadata" in given:
        try:
            given["metadata"] = orjson.loads(given["metadata"])
        except orjson.JSONDecodeError:
            raise Problem(422, "invalid-request", "metadata: must be a JSON object.") from None
    try:
        return BatchOptions.model_validate(given)
    except ValidationError as error:
        raise validation_problem(error) from None


def _result_lines(current: Services, batch: Batch) -> Iterator[bytes]:
    if batch.results_file:
        stored = current.files.get(batch.results_file, batch.tenant)
        yield from current.files.chunks(stored)
        return
    if not batch.lines_file:
        return
    part = bytearray()
    for result in line_results(
        current.job_redis, current.settings.key_prefix, current.files, batch
    ):
        part += orjson.dumps(result.view()) + b"\n"
        if len(part) > CHUNK_BYTES:
            yield bytes(part)
            part.clear()
    yield bytes(part)


def native_view(batch: Batch) -> dict[str, Any]:
    """The batch as a client of the native interface sees it."""
    counts = batch.counts
    return {
        "id": batch.id,
        "object": "batch",
        "state": batch.state.value,
        "priority": batch.lane.value,
        "completion_window": batch.window,
        "counts": {
            "total": counts.total,
            "succeeded": counts.succeeded,
            "failed": counts.failed,
            "cancelled": counts.cancelled,
            "expired": counts.expired,
            "open": counts.total - counts.ended,
        },
        "eta_seconds": batch.eta_seconds(),
        "usage": batch.usage,
        "metadata": batch.metadata,
        "created_at": _time(batch.created_at),
        "expires_at": _time(batch.deadline_at),
        "ended_at": _time(batch.ended_at),
        "results_url": f"/v1/batch/{batch.id}/results",
    }


def _time(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")


def _json(content: dict[str, Any], status: int) -> Response:
    return current_app.response_class(
        orjson.dumps(content), status=status, mimetype="application/json"
    )
