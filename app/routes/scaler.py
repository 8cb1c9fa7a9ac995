"""What the scaler decided and why, and holding it."""

from __future__ import annotations

from typing import Annotated

import orjson
from flask import Response, current_app
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.administration import change, require_platform
from app.documents import Parameters, problems
from app.identity import caller
from app.services import services
from tasks.accounts import now_ms
from tasks.scaler_state import pause_scaler, read_scaler, resume_scaler

scaler_api = APIBlueprint(
    "scaler",
    __name__,
    url_prefix="/v1/scaler",
    abp_tags=[Tag(name="Scaler", description="How many workers there shall be.")],
    abp_security=[{"token": []}],
)


class LogQuery(Parameters):
    """How much of the log to show."""

    log: int = Field(default=0, ge=0, le=200, description="Decisions for each queue.")


class Pause(BaseModel):
    """Why the scaler shall change nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: Annotated[str, StringConstraints(min_length=1, max_length=200)]


@scaler_api.get(
    "",
    summary="What the scaler decided",
    responses={"200": {"content": {"application/json": {}}}, **problems(401, 429, 503)},
)
def scaler(query: LogQuery) -> Response:
    """The last decision for each queue with its reasons; with `log` also those before.

    `level` is what the decision trusts: `seasonal`, `nowcast`, `reactive` or `hold`.
    """
    return _state(query.log)


@scaler_api.post(
    "/pause",
    summary="Let the scaler change nothing",
    responses={
        "200": {"content": {"application/json": {}}},
        **problems(400, 401, 403, 415, 422, 429, 503),
    },
)
def pause(body: Pause) -> Response:
    """It goes on deciding and says what it would do. Needs the scope `platform`."""
    require_platform()
    current, who = services(), caller()
    with change() as doing:
        doing.note("scaler.pause", who.tenant, "scaler", reason=body.reason)
    pause_scaler(
        current.job_redis,
        by=f"{who.tenant}/{who.user}",
        reason=body.reason,
        at=now_ms() / 1000,
        prefix=current.settings.key_prefix,
    )
    return _state()


@scaler_api.post(
    "/resume",
    summary="End a pause of the scaler",
    responses={
        "200": {"content": {"application/json": {}}},
        **problems(401, 403, 429, 503),
    },
)
def resume() -> Response:
    """From its next tick on it acts again. Needs the scope `platform`."""
    require_platform()
    current, who = services(), caller()
    with change() as doing:
        doing.note("scaler.resume", who.tenant, "scaler")
    resume_scaler(current.job_redis, prefix=current.settings.key_prefix)
    return _state()


def _state(log: int = 0) -> Response:
    current = services()
    state = read_scaler(current.job_redis, log=log, prefix=current.settings.key_prefix)
    return current_app.response_class(orjson.dumps(state), mimetype="application/json")
