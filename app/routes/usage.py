"""What jobs used and cost, from the usage ledger."""

from __future__ import annotations

import csv
import datetime as dt
import io
from typing import Any, Literal, cast, get_args

import orjson
from flask import Response, current_app
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, Field

from app.documents import Parameters, problems
from app.identity import caller
from app.problems import Problem
from app.scopes import PLATFORM
from app.services import services
from tasks.money import dollars, dollars_text
from tasks.usage import Dimension, UsageSum, sums

usage_api = APIBlueprint(
    "usage",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="Usage", description="What jobs used and cost.")],
    abp_security=[{"token": []}],
)

DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)


class UsageQuery(Parameters):
    """Which jobs, and how to add them up."""

    first: dt.date | None = Field(default=None, description="Default: the first of this month.")
    last: dt.date | None = Field(default=None, description="Included; default: today (UTC).")
    by: str = Field(
        default="day",
        max_length=60,
        pattern=rf"^$|^(?:{'|'.join(DIMENSIONS)})(?:,(?:{'|'.join(DIMENSIONS)}))*$",
        description=f"Some of {', '.join(DIMENSIONS)}, separated by commas.",
    )
    user: str | None = Field(default=None, max_length=64, description="Of this user only.")
    tenant: str | None = Field(default=None, max_length=64, description="With scope `platform`.")
    format: Literal["json", "csv"] = "json"


class UsageSumView(BaseModel):
    """Sums over the jobs of one group."""

    group: dict[str, str]
    jobs: int
    cache_hits: int
    input_tokens: int
    output_tokens: int
    cost: float = Field(description="US dollars.")
    saved: float = Field(description="US dollars that the cache saved.")


class UsageView(BaseModel):
    """Usage between two days."""

    first: dt.date
    last: dt.date
    data: list[UsageSumView]
    total: UsageSumView


@usage_api.get(
    "/usage",
    summary="What jobs used and cost",
    responses={"200": UsageView, **problems(400, 401, 403, 422, 429, 503)},
)
def read_usage(query: UsageQuery) -> Response:
    """Sums over ended jobs, by UTC day of their end. Administrators see their tenant, others
    themselves. A job appears within about two seconds of its end.
    """
    who = caller()
    if query.tenant not in (None, who.tenant) and PLATFORM not in who.scopes:
        raise Problem(403, "insufficient-scope", f"The token lacks the scope `{PLATFORM}`.")
    today = dt.datetime.now(dt.UTC).date()
    first, last = query.first or today.replace(day=1), query.last or today
    if first > last:
        raise Problem(422, "invalid-request", "first: must not be after `last`")
    names = cast(list[Dimension], list(dict.fromkeys(filter(None, query.by.split(",")))))
    tenant = query.tenant or who.tenant
    user = query.user if who.admin else who.user
    with services().database.session() as session:
        groups = sums(session, tenant, first=first, last=last, by=names, user=user)
        whole = sums(session, tenant, first=first, last=last, user=user)[0]
    if query.format == "csv":
        return _csv(names, groups)
    content = {
        "first": first.isoformat(),
        "last": last.isoformat(),
        "data": [_view(group) for group in groups],
        "total": _view(whole),
    }
    return current_app.response_class(orjson.dumps(content), mimetype="application/json")


def _view(group: UsageSum) -> dict[str, Any]:
    return {
        "group": group.group,
        "jobs": group.jobs,
        "cache_hits": group.cache_hits,
        "input_tokens": group.input_tokens,
        "output_tokens": group.output_tokens,
        "cost": dollars(group.cost_nano),
        "saved": dollars(group.saved_nano),
    }


def _csv(names: list[Dimension], groups: list[UsageSum]) -> Response:
    out = io.StringIO()
    write = csv.writer(out)
    columns = ["jobs", "cache_hits", "input_tokens", "output_tokens"]
    write.writerow([*names, *columns, "cost", "saved"])
    for group in groups:
        write.writerow(
            [_plain(group.group[name]) for name in names]
            + [getattr(group, column) for column in columns]
            + [dollars_text(group.cost_nano), dollars_text(group.saved_nano)]
        )
    return current_app.response_class(
        out.getvalue(),
        mimetype="text/csv",
        headers={"Content-Disposition": 'attachment; filename="usage.csv"'},
    )


def _plain(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
