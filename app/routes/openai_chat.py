"""OpenAI's chat completions. Each is a job like any other: queued, cached, routed, recorded."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from app.documents import openai_answers
from app.following import StreamLostError
from app.identity import caller
from app.openai.chat import ChatCompletionRequest, Chunks, Continuation, DivergedError, completion
from app.openai.errors import error_body
from app.openai_jobs import (
    answered,
    failure,
    json_answer,
    started,
    tell_job,
    wait_seconds,
)
from app.services import Services, services
from app.sse import PING, event_block, event_stream
from app.submission import submit, submit_and_wait
from tasks.inference import InferenceResponse
from tasks.jobs import Job, JobState
from tasks.ledger import UnknownJobError
from tasks.streams import StreamEvent

chat_api = APIBlueprint(
    "chat",
    __name__,
    url_prefix="/v1/chat",
    abp_tags=[Tag(name="OpenAI-compatible", description="For the `openai` package and others.")],
    abp_security=[{"token": []}],
)


@chat_api.post(
    "/completions",
    summary="Chat completion (OpenAI-compatible)",
    responses=openai_answers(200, 400, 401, 404, 409, 429, 500, 502, 503, 504),
)
def create_chat_completion(body: ChatCompletionRequest) -> Response:
    """As OpenAI's, whole or streamed. `X-Job-ID` names the job, `X-Cache` says whether the answer
    was cached. Fields that cannot be honoured are refused by name.
    """
    current, who = services(), caller()
    submission = body.submission()
    if body.stream:
        current.hub.check_room(who.tenant)
        snapshot, _ = submit(current, who, submission, body=request.get_data())
        job = snapshot.job
        events = started(current, job.id, who.tenant)
        chunks = Chunks(job, include_usage=body.include_usage)
        return tell_job(event_stream(_blocks(current, job, events, chunks)), job)
    snapshot, _ = submit_and_wait(
        current,
        who,
        submission,
        body=request.get_data(),
        seconds=wait_seconds(current),
        patient=True,
    )
    job = answered(snapshot.job)
    return tell_job(json_answer(completion(job)), job)


def _blocks(
    current: Services, job: Job, events: Iterator[StreamEvent | None], chunks: Chunks
) -> Iterator[bytes]:
    text = Continuation()
    yield event_block(chunks.first())
    try:
        for event in events:
            if event is None:
                yield PING
            elif event.kind == "restart":
                text.restart()
            elif event.kind == "delta":
                more = text.grow(event.data)
                if more:
                    yield event_block(chunks.text(more))
            else:
                ended = current.ledger.read(job.id, job.tenant).job
                if ended.state is not JobState.SUCCEEDED or ended.result is None:
                    yield _error(*failure(ended))
                    return
                text.end()
                response = InferenceResponse.from_stored(ended.result)
                for chunk in chunks.last(response):
                    yield event_block(chunk)
                yield event_block(b"[DONE]")
    except DivergedError:
        yield _error(
            502,
            "stream_restarted",
            "The provider failed in the middle of its answer, and another answer was begun. "
            f"Get it whole from /v1/jobs/{job.id}.",
        )
    except (StreamLostError, UnknownJobError):
        yield _error(
            503, "stream_lost", f"The stream was lost. The job goes on: see /v1/jobs/{job.id}."
        )


def _error(status: int, code: str, message: str) -> bytes:
    return event_block(error_body(status, message, code=code, param=None))
