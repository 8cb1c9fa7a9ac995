"""Submit, look at, wait for, list and cancel jobs."""

from __future__ import annotations

import base64
import re
from typing import Any

import orjson
from flask import Response, current_app, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from app.documents import JobPage, JobPath, JobView, ListQuery, WaitQuery, problems
from app.identity import caller
from app.problems import Problem
from app.services import Services, services
from app.submission import submit, submit_and_wait
from tasks.inference import InferenceSubmission
from tasks.jobs import Job
from tasks.ledger import Snapshot

jobs_api = APIBlueprint(
    "jobs",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="Jobs", description="Submit prompts and collect answers.")],
    abp_security=[{"token": []}],
)

_PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,4})\"?(?:$|[,;\s])")
POLL_AGAIN_SECONDS = "1"


@jobs_api.post(
    "/inference",
    summary="Submit a prompt",
    responses={
        "200": JobView,
        "202": JobView,
        **problems(400, 401, 409, 413, 415, 422, 429, 503),
    },
)
def submit_inference(body: InferenceSubmission, query: WaitQuery) -> Response:
    """Answers 202 with the job at once, or, with `Prefer: wait=20` or `?wait=20`, 200 with the
    ended job if it ends in that time. A repeated `Idempotency-Key` gives the same job again.
    """
    current = services()
    seconds, preferred = _wait_seconds(current, query.wait)
    who = caller()
    if seconds:
        snapshot, created = submit_and_wait(
            current, who, body, body=request.get_data(), seconds=seconds
        )
    else:
        snapshot, created = submit(current, who, body, body=request.get_data())
    response = _job_response(current, snapshot, 200 if snapshot.job.state.terminal else 202)
    response.headers["Location"] = f"/v1/jobs/{snapshot.job.id}"
    if not created:
        response.headers["Idempotency-Replayed"] = "true"
    if preferred:
        response.headers["Preference-Applied"] = f"wait={preferred}"
    if response.status_code == 202:
        response.headers["Retry-After"] = POLL_AGAIN_SECONDS
    return response


@jobs_api.get(
    "/jobs/<job_id>",
    summary="Look at a job, or wait for it",
    responses={"200": JobView, "304": None, **problems(400, 401, 404, 422, 429, 503)},
)
def get_job(path: JobPath, query: WaitQuery) -> Response:
    """The job as it stands, or, with `wait`, as it ended in that time. A job that has not moved
    since `If-None-Match` answers 304.
    """
    current = services()
    seconds, preferred = _wait_seconds(current, query.wait)
    tenant = caller().tenant
    if seconds:
        current.hub.check_room(tenant)
        with current.hub.watching(tenant, path.job_id) as event:
            snapshot = current.hub.wait(current.ledger, path.job_id, tenant, seconds, event)
    else:
        snapshot = current.ledger.read(path.job_id, tenant)
    response = _job_response(current, snapshot, 200)
    if preferred:
        response.headers["Preference-Applied"] = f"wait={preferred}"
    if not snapshot.job.state.terminal:
        response.headers["Retry-After"] = POLL_AGAIN_SECONDS
    response.make_conditional(request)
    return response


@jobs_api.get(
    "/jobs",
    summary="List jobs, newest first",
    responses={"200": JobPage, **problems(400, 401, 422, 429, 503)},
)
def list_jobs(query: ListQuery) -> Response:
    """The tenant's jobs. Give `next_cursor` back as `cursor` for the next page."""
    found = services().ledger.page(
        caller().tenant, before=_decode_cursor(query.cursor), limit=query.limit
    )
    more = len(found) == query.limit
    return _json(
        {
            "data": [job.view() for job in found],
            "next_cursor": _encode_cursor(found[-1]) if more else None,
        },
        200,
    )


@jobs_api.post(
    "/jobs/<job_id>/cancel",
    summary="Cancel a job",
    responses={"200": JobView, **problems(401, 404, 409, 422, 429, 503)},
)
def cancel_job(path: JobPath) -> Response:
    """A queued job never runs; a running one ends now, and its provider call is closed."""
    current = services()
    tenant = caller().tenant
    current.ledger.cancel(path.job_id, tenant)
    return _job_response(current, current.ledger.read(path.job_id, tenant), 200)


def _wait_seconds(current: Services, wait: float | None) -> tuple[float, int | None]:
    """Seconds to wait, and what to echo when a Prefer header asked for them."""
    preferred = None
    if wait is None:
        match = _PREFER_WAIT.search(request.headers.get("Prefer", ""))
        if match:
            preferred = min(int(match[1]), int(current.settings.max_wait_seconds))
            wait = preferred
    return min(wait or 0.0, current.settings.max_wait_seconds), preferred


def _job_response(current: Services, snapshot: Snapshot, status: int) -> Response:
    job = snapshot.job
    view = job.view()
    view["queue_position"] = snapshot.queue_position
    view["eta_seconds"] = snapshot.eta_seconds
    response = _json(view, status)
    response.set_etag(f"{job.state.value}-{job.fence}-{job.not_before or 0}", weak=True)
    response.headers["Cache-Control"] = "private, no-cache"
    return response


def _json(content: dict[str, Any], status: int) -> Response:
    return current_app.response_class(
        orjson.dumps(content), status=status, mimetype="application/json"
    )


def _encode_cursor(job: Job) -> str:
    return base64.urlsafe_b64encode(f"{job.created_at}:{job.id}".encode()).decode()


def _decode_cursor(cursor: str | None) -> tuple[int, str] | None:
    if cursor is None:
        return None
    try:
        created, _, job_id = base64.urlsafe_b64decode(cursor.encode()).decode().partition(":job_")
        return int(created), f"job_{job_id}"
    except ValueError:  # of base64, UTF-8 or the number
        raise Problem(
            400, "bad-cursor", "Give `next_cursor` of the page before, unchanged."
        ) from None
