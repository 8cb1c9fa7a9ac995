"""What the OpenAI-compatible routes share: waiting for a job, and telling how it ended."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import orjson
from flask import Response, current_app, request

from app.following import follow
from app.openai.errors import job_failure
from app.problems import Problem
from app.services import Services
from tasks.jobs import Job, JobState
from tasks.streams import StreamEvent

HEAD_START_SECONDS = 1.0  # answer before the client's own timeout cuts the connection


def wait_seconds(current: Services) -> float:
    """How long this request may wait: our limit, or the client's own where it is shorter."""
    longest = current.settings.openai_wait_seconds
    try:
        clients = float(request.headers.get("X-Stainless-Read-Timeout", "inf"))
    except ValueError:
        return longest
    if math.isnan(clients) or clients <= HEAD_START_SECONDS:
        return longest
    return min(longest, clients - HEAD_START_SECONDS)


def answered(job: Job) -> Job:
    """The job, if it has an answer. Raises Problem in the words of its failure, or 504."""
    if not job.state.terminal:
        raise Problem(
            504,
            "timeout",
            f"The job has not ended in time; it goes on. Look at /v1/jobs/{job.id}, or send the "
            "same request again.",
            headers={"X-Job-ID": job.id},
        )
    if job.state is not JobState.SUCCEEDED:
        raise failed(job)
    return job


def failure(job: Job) -> tuple[int, str, str]:
    """Status, code and message of a job that ended without an answer."""
    error = orjson.loads(job.error) if job.error else {"type": job.state.value, "message": ""}
    meaning = job_failure(error["type"])
    return meaning.status, meaning.code, error["message"]


def failed(job: Job) -> Problem:
    """The error answer for a job that ended without an answer."""
    status, code, message = failure(job)
    # The job has been tried again as often as makes sense; a library need not do it once more.
    headers = {"X-Job-ID": job.id, "X-Should-Retry": "false"}
    return Problem(status, code.replace("_", "-"), message, headers=headers)


def started(current: Services, job_id: str, tenant: str) -> Iterator[StreamEvent | None]:
    """The job's events, once the first is there or a sign of life is due.

    Raises Problem for a job that fails before its first word, as a stream that has begun can no
    longer answer with a status.
    """
    events = follow(current, job_id, tenant, patient=True)
    first = next(events)
    if first is not None and first.kind == "end":
        job = current.ledger.read(job_id, tenant).job
        if job.state is not JobState.SUCCEEDED:
            raise failed(job)
    return itertools.chain([first], events)


def json_answer(content: object, status: int = 200) -> Response:
    """A JSON answer."""
    return current_app.response_class(
        orjson.dumps(content), status=status, mimetype="application/json"
    )


def tell_job(response: Response, job: Job) -> Response:
    """Name the job in the headers, and say what the cache did where that is known."""
    response.headers["X-Job-ID"] = job.id
    if job.result is not None:
        result = orjson.loads(job.result)
        hit = result.get("cache") or {}
        response.headers["X-Cache"] = (
            f"hit; layer={hit.get('layer')}" if result["cache_hit"] else "miss"
        )
    return response
