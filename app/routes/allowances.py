"""Budgets and limits of tenants and users."""

from __future__ import annotations

from typing import Any

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from app.administration import change, find_tenant, require_platform
from app.documents import Parameters
from app.identity import NAME
from app.problems import Problem
from app.routes.admin import ADMIN_TAG, CHANGED, READ, TenantPath, answer
from app.services import services
from tasks.models import EVERY_USER, WHOLE_TENANT, Budget, Limit
from tasks.money import dollars, nano

allowances_api = APIBlueprint(
    "allowances",
    __name__,
    url_prefix="/v1/admin/tenants/<tenant>",
    abp_tags=[ADMIN_TAG],
    abp_security=[{"token": []}],
)

MOST_DOLLARS = 9_000_000  # what the Lua counters hold exactly (tasks/money.py)
MOST_TOKENS = 9_000_000_000_000_000


class WhoQuery(Parameters):
    """Whose it is."""

    user: str = Field(
        default=WHOLE_TENANT,
        max_length=64,
        description="A user; `*` for each user without one of their own; "
        "left out for the whole tenant.",
    )


class BudgetBody(BaseModel):
    """The most that may be spent, by UTC days and months; what is left out has no bound."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, title="Budget")

    day_dollars: float | None = Field(default=None, ge=0, le=MOST_DOLLARS)
    month_dollars: float | None = Field(default=None, ge=0, le=MOST_DOLLARS)
    day_tokens: int | None = Field(default=None, ge=0, le=MOST_TOKENS)
    month_tokens: int | None = Field(default=None, ge=0, le=MOST_TOKENS)


class LimitBody(BaseModel):
    """The most that may be done at a time; what is left out or null has no bound of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="Limits")

    tokens_per_minute: int | None = Field(default=None, ge=1, le=1_000_000_000)
    open_jobs: int | None = Field(default=None, ge=0, le=1_000_000_000)
    waiting_jobs: int | None = Field(
        default=None, ge=0, le=1_000_000_000, description="Of the whole tenant only."
    )


@allowances_api.get("/budgets", summary="List budgets", responses=READ)
def list_budgets(path: TenantPath) -> Response:
    """Of the tenant and its users."""
    with services().database.session() as session:
        find_tenant(session, path.tenant)
        query = select(Budget).where(Budget.tenant == path.tenant).order_by(Budget.user)
        return answer({"data": [_budget(row) for row in session.scalars(query)]})


@allowances_api.put("/budgets", summary="Set a budget", responses=CHANGED)
def set_budget(path: TenantPath, query: WhoQuery, body: BudgetBody) -> Response:
    """In force at once. That of the whole tenant needs the scope `platform`."""
    _check_who(query.user)
    with change() as doing:
        find_tenant(doing.session, path.tenant)
        row = doing.session.merge(
            Budget(
                tenant=path.tenant,
                user=query.user,
                day_nano=_nano(body.day_dollars),
                month_nano=_nano(body.month_dollars),
                day_tokens=body.day_tokens,
                month_tokens=body.month_tokens,
            )
        )
        doing.note("budget.set", path.tenant, query.user, **body.model_dump())
    services().accounts.changed(path.tenant)
    return answer(_budget(row))


@allowances_api.get("/limits", summary="List limits", responses=READ)
def list_limits(path: TenantPath) -> Response:
    """Of the tenant and its users."""
    with services().database.session() as session:
        find_tenant(session, path.tenant)
        query = select(Limit).where(Limit.tenant == path.tenant).order_by(Limit.user)
        return answer({"data": [_limit(row) for row in session.scalars(query)]})


@allowances_api.put("/limits", summary="Set limits", responses=CHANGED)
def set_limits(path: TenantPath, query: WhoQuery, body: LimitBody) -> Response:
    """In force at once. Those of the whole tenant need the scope `platform`."""
    _check_who(query.user)
    if body.waiting_jobs is not None and query.user != WHOLE_TENANT:
        raise Problem(422, "invalid-request", "waiting_jobs: is a limit of the whole tenant only")
    with change() as doing:
        find_tenant(doing.session, path.tenant)
        row = doing.session.merge(Limit(tenant=path.tenant, user=query.user, **body.model_dump()))
        doing.note("limits.set", path.tenant, query.user, **body.model_dump())
    services().accounts.changed(path.tenant)
    return answer(_limit(row))


def _check_who(user: str) -> None:
    if user == WHOLE_TENANT:
        require_platform()
    elif user != EVERY_USER and not NAME.fullmatch(user):
        raise Problem(422, "invalid-request", f"user: must be `*` or match {NAME.pattern}")


def _nano(amount: float | None) -> int | None:
    return None if amount is None else nano(amount)


def _budget(row: Budget) -> dict[str, Any]:
    return {
        "user": row.user,
        "day_dollars": None if row.day_nano is None else dollars(row.day_nano),
        "month_dollars": None if row.month_nano is None else dollars(row.month_nano),
        "day_tokens": row.day_tokens,
        "month_tokens": row.month_tokens,
    }


def _limit(row: Limit) -> dict[str, Any]:
    return {
        "user": row.user,
        "tokens_per_minute": row.tokens_per_minute,
        "open_jobs": row.open_jobs,
        "waiting_jobs": row.waiting_jobs,
    }
