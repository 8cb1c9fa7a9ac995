"""The answer of a job while it is being written."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from app.documents import JobPath, StreamQuery, problems
from app.following import EVENT_ID, PING_SECONDS, StreamLostError, follow
from app.identity import caller
from app.problems import Problem
from app.services import Services, services
from app.sse import PING, event_block, event_stream
from tasks.ledger import JobEndedError, UnknownJobError

streams_api = APIBlueprint(
    "streams",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="Jobs", description="Submit prompts and collect answers.")],
    abp_security=[{"token": []}],
)

# A client that has left is noticed when something is sent to it.
WATCHED_PING_SECONDS = 2.0


@streams_api.get(
    "/jobs/<job_id>/stream",
    summary="Follow a job's answer as Server-Sent Events",
    responses={
        "200": {"description": "Events", "content": {"text/event-stream": {}}},
        "204": {"description": "The client has seen the end"},
        **problems(400, 401, 404, 422, 429, 503),
    },
)
def stream_job(path: JobPath, query: StreamQuery) -> Response:
    """`delta` events carry text; `restart` says that the answer begins anew; `end` carries the
    job. `Last-Event-ID` (or `starting_after`) resumes after that event, on any API server.
    A comment every 15 seconds shows that the connection lives. Leaving does not cancel the job,
    unless `cancel_on_disconnect` was given. A job that was submitted without `stream` shows its
    answer in one piece.
    """
    current, tenant = services(), caller().tenant
    after = request.headers.get("Last-Event-ID", "") or query.starting_after or ""
    if after and not EVENT_ID.fullmatch(after):
        raise Problem(400, "bad-event-id", "Give the `id` of an event of this stream, unchanged.")
    current.hub.check_room(tenant)
    page = current.streams.follow(path.job_id, tenant, after=after)
    if page.streamed and page.state.terminal and not page.events:
        return Response(status=204)  # tells an EventSource to stop reconnecting
    return event_stream(
        _blocks(current, path.job_id, tenant, after, cancel=query.cancel_on_disconnect)
    )


def _blocks(
    current: Services, job_id: str, tenant: str, after: str, *, cancel: bool
) -> Iterator[bytes]:
    ping_seconds = WATCHED_PING_SECONDS if cancel else PING_SECONDS
    yield b": stream of " + job_id.encode() + b"\n\n"  # sends the headers at once
    try:
        for event in follow(current, job_id, tenant, after=after, ping_seconds=ping_seconds):
            if event is None:
                yield PING
            elif event.kind == "delta":
                yield event_block({"text": event.data}, event="delta", event_id=event.id)
            elif event.kind == "restart":
                yield event_block({}, event="restart", event_id=event.id)
            else:
                job = current.ledger.read(job_id, tenant).job
                yield event_block(job.view(), event="end", event_id=event.id)
    except (StreamLostError, UnknownJobError):
        return  # the client sees no `end` and resumes
    except GeneratorExit:
        if cancel:
            _cancel(current, job_id, tenant)
        raise


def _cancel(current: Services, job_id: str, tenant: str) -> None:
    try:
        current.ledger.cancel(job_id, tenant)
    except (JobEndedError, UnknownJobError):
        return  # it was over already
