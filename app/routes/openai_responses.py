"""OpenAI's Responses API: in the foreground, in the background, streamed, resumed, cancelled."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from app.documents import ResponsePath, ResponseQuery, openai_answers
from app.following import StreamLostError, follow
from app.identity import caller
from app.openai.response_events import EventLog
from app.openai.responses import (
    ResponseRequest,
    conversation_after,
    job_id_of,
    response_object,
    surface_of,
)
from app.openai_jobs import answered, json_answer, started, tell_job, wait_seconds
from app.problems import FieldFault, Problem
from app.services import Services, services
from app.sse import PING, event_block, event_stream
from app.submission import submit, submit_and_wait
from tasks.inference import Message
from tasks.jobs import Job, JobState
from tasks.ledger import JobEndedError, UnknownJobError
from tasks.streams import StreamEvent

responses_api = APIBlueprint(
    "responses",
    __name__,
    url_prefix="/v1/responses",
    abp_tags=[Tag(name="OpenAI-compatible", description="For the `openai` package and others.")],
    abp_security=[{"token": []}],
)

# What is not to be stored is kept for a client library's retries, and no longer.
UNSTORED_SECONDS = 600


@responses_api.post(
    "",
    summary="Create a response (OpenAI-compatible)",
    responses=openai_answers(200, 400, 401, 404, 409, 429, 500, 502, 503, 504),
)
def create_response(body: ResponseRequest) -> Response:
    """As OpenAI's. `background` answers at once; retrieve, stream or cancel it by its id."""
    current, who = services(), caller()
    body.check()
    earlier: list[Message] = []
    if body.previous_response_id is not None:
        earlier = _earlier(current, who.tenant, body.previous_response_id)
    submission = body.submission(earlier)
    raw, surface = request.get_data(), body.surface()
    keep = UNSTORED_SECONDS if body.store is False else None
    if body.stream:
        current.hub.check_room(who.tenant)
    if body.stream or body.background:
        snapshot, _ = submit(
            current, who, submission, body=raw, surface=surface, retention_seconds=keep
        )
        job = snapshot.job
        if not body.stream:
            return tell_job(json_answer(response_object(job)), job)
        events = (
            follow(current, job.id, who.tenant)
            if body.background
            else started(current, job.id, who.tenant)
        )
        return tell_job(event_stream(_blocks(current, job, events, -1)), job)
    snapshot, _ = submit_and_wait(
        current,
        who,
        submission,
        body=raw,
        seconds=wait_seconds(current),
        patient=True,
        surface=surface,
        retention_seconds=keep,
    )
    job = answered(snapshot.job)
    return tell_job(json_answer(response_object(job)), job)


@responses_api.get(
    "/<response_id>",
    summary="Retrieve a response, or its stream",
    responses=openai_answers(200, 400, 401, 404, 429, 503),
)
def get_response(path: ResponsePath, query: ResponseQuery) -> Response:
    """The response as it stands; with `stream=true` all its events, or those after the one with
    the sequence number `starting_after`: what is there already, then what comes.
    """
    current, tenant = services(), caller().tenant
    job = _find(current, tenant, path.response_id)
    if not query.stream:
        return tell_job(json_answer(response_object(job)), job)
    current.hub.check_room(tenant)
    after = -1 if query.starting_after is None else query.starting_after
    events = follow(current, job.id, tenant)
    return tell_job(event_stream(_blocks(current, job, events, after)), job)


@responses_api.post(
    "/<response_id>/cancel",
    summary="Cancel a response",
    responses=openai_answers(200, 400, 401, 404, 429, 503),
)
def cancel_response(path: ResponsePath) -> Response:
    """Ends it now and closes its provider call. To cancel twice is no error."""
    current, tenant = services(), caller().tenant
    job = _find(current, tenant, path.response_id)
    try:
        current.ledger.cancel(job.id, tenant)
    except JobEndedError as error:
        if error.state is not JobState.CANCELLED:
            raise
    job = current.ledger.read(job.id, tenant).job
    return tell_job(json_answer(response_object(job)), job)


def _find(current: Services, tenant: str, response_id: str) -> Job:
    """The job of a stored response. Raises Problem 404."""
    job_id = job_id_of(response_id)
    try:
        job = current.ledger.read(job_id, tenant).job if job_id else None
    except UnknownJobError:
        job = None
    if job is not None:
        surface = surface_of(job)
        if surface is not None and surface["store"]:
            return job
    raise Problem(404, "not-found", f"Response with id '{response_id[:100]}' not found.")


def _earlier(current: Services, tenant: str, response_id: str) -> list[Message]:
    """The conversation that a response ended. Raises Problem 400."""
    try:
        job = _find(current, tenant, response_id)
    except Problem as problem:
        raise _bad_previous("previous-response-not-found", problem.detail) from None
    if job.state is not JobState.SUCCEEDED:
        raise _bad_previous("invalid-request", "The previous response has no answer.")
    return conversation_after(job)


def _bad_previous(kind: str, detail: str) -> Problem:
    fault = FieldFault(field="previous_response_id", message=detail)
    return Problem(400, kind, detail, errors=[fault])


def _blocks(
    current: Services, job: Job, events: Iterator[StreamEvent | None], after: int
) -> Iterator[bytes]:
    log = EventLog(job)
    yield from _numbered(log.begin(), after)
    try:
        for event in events:
            if event is None:
                yield PING
            elif event.kind == "delta":
                yield from _numbered(log.delta(event.data), after)
            elif event.kind == "restart":
                yield from _numbered(log.restart(), after)
            else:
                ended = current.ledger.read(job.id, job.tenant).job
                yield from _numbered(log.end(ended), after)
    except (StreamLostError, UnknownJobError):
        return  # the client sees no end and resumes


def _numbered(events: Iterator[dict[str, object]], after: int) -> Iterator[bytes]:
    for event in events:
        number = event["sequence_number"]
        if isinstance(number, int) and number > after:
            yield event_block(event, event=str(event["type"]))
