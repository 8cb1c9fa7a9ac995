"""Forgetting cached answers, reporting wrong ones, and explaining a route."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from flask import Response, current_app
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.administration import change, require_platform
from app.documents import JobPath, problems
from app.identity import caller
from app.problems import Problem
from app.services import CONTROL_SECONDS, services
from tasks.control import ControlFailedError, NoWorkerError
from tasks.inference import InferenceSubmission
from tasks.jobs import JobState

cache_api = APIBlueprint(
    "cache",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="Cache and routes", description="What is remembered, and what answers.")],
    abp_security=[{"token": []}],
)

Word = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class Invalidation(BaseModel):
    """Which cached answers to forget: those of the tenant that meet every condition given."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    pattern: Word | None = Field(default=None, description="A glob over the prompt: `*refund*`.")
    model: Word | None = Field(default=None, description="The model that answered.")
    tag: Word | None = None
    older_than: float | None = Field(default=None, ge=0, description="Seconds.")
    everyone: bool = Field(default=False, description="Of all tenants; with scope `platform`.")


class Invalidated(BaseModel):
    """What was forgotten."""

    removed: int | None = Field(description="null: everything, at once.")


class Reported(BaseModel):
    """What came of a report."""

    removed: bool = Field(description="Whether the answer was cached and is now forgotten.")


class Route(BaseModel):
    """Which models would answer, in order."""

    decision: dict[str, Any] | None = Field(description="What `auto` made of the prompt.")
    candidates: list[dict[str, str]]
    passed_over: list[dict[str, Any]]
    input_tokens: int = Field(description="Estimated.")
    notice: str | None


@cache_api.post(
    "/cache/invalidate",
    summary="Forget cached answers",
    responses={"200": Invalidated, **problems(400, 401, 403, 415, 422, 429, 503)},
)
def invalidate(body: Invalidation) -> Response:
    """Without a condition everything of the tenant is forgotten at once. Admins only. It is written
    into the audit log.
    """
    who = caller()
    if not who.admin:
        raise Problem(403, "admin-only", "Only an admin of the tenant may do this.")
    if body.everyone:
        require_platform()
    with change() as doing:
        doing.note(
            "cache.invalidate", who.tenant, "cache", **body.model_dump(exclude_defaults=True)
        )
    conditions = body.model_dump(exclude={"everyone"})
    tenant = None if body.everyone else who.tenant
    return _ask("cache.invalidate", {"tenant": tenant, **conditions})


@cache_api.post(
    "/jobs/<job_id>/wrong-answer",
    summary="Report a wrong answer",
    responses={"200": Reported, **problems(401, 404, 409, 422, 429, 503)},
)
def wrong_answer(path: JobPath) -> Response:
    """The cached answer is forgotten, and never served again for what this job asked."""
    tenant = caller().tenant
    job = services().ledger.read(path.job_id, tenant).job
    if job.state is not JobState.SUCCEEDED or job.result is None:
        raise Problem(409, "no-answer", "The job has no answer that could be wrong.")
    hit = orjson.loads(job.result)["cache"] or {}
    return _ask(
        "cache.wrong_answer",
        {
            "tenant": tenant,
            "request": orjson.loads(job.request),
            "entry": hit.get("entry", job.fingerprint),
        },
    )


@cache_api.post(
    "/route",
    summary="Explain a route",
    responses={"200": Route, **problems(400, 401, 415, 422, 429, 503)},
)
def explain_route(body: InferenceSubmission) -> Response:
    """Which models would be asked for this submission, in order, and why. Nothing is asked."""
    request = {
        **body.model_dump(mode="json"),
        "user_id": caller().user,
        "created_at": "1970-01-01T00:00:00Z",
    }
    return _ask("route.explain", {"request": request})


def _ask(kind: str, question: dict[str, Any]) -> Response:
    try:
        answer = services().control.ask(kind, question, seconds=CONTROL_SECONDS)
    except NoWorkerError:
        raise Problem(
            503, "no-worker", "No worker is free to do this now.", headers={"Retry-After": "5"}
        ) from None
    except ControlFailedError as error:
        raise Problem(422, "cannot-do", str(error)) from None
    return current_app.response_class(orjson.dumps(answer), mimetype="application/json")
