"""What a client is told when a budget or a limit of its account refuses a job."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

from tasks.money import dollars

_WHOSE = {"tenant": "your tenant", "user": "you"}


def describe(refusal: dict[str, Any], now: dt.datetime) -> tuple[int, str, str, int | None]:
    """Status, kind, detail and seconds to wait (None: waiting does not help) of a refusal as
    `admit` in tasks/lua/spend.lua made it.
    """
    whose = _WHOSE[refusal["scope"]]
    limit = int(refusal["limit"])
    match refusal["kind"]:
        case "budget":
            return _budget(refusal, whose, now)
        case "tokens":
            detail = f"The limit of {whose} is {limit} tokens a minute."
            return 429, "tokens-limited", detail, int(refusal["retry_after"])
        case "too_large":
            detail = (
                f"The request may use {int(refusal['asked'])} tokens, more than {limit}, which "
                f"is all that {whose} may use in a minute. Lower max_tokens or shorten the prompt."
            )
            return 422, "request-over-token-limit", detail, None
        case "open":
            detail = f"The limit of {whose} is {limit} jobs at once. Wait until one has ended."
            return 429, "too-many-open-jobs", detail, int(refusal["retry_after"])
        case _:
            detail = f"The limit of {whose} is {limit} waiting jobs."
            return 429, "queue-full", detail, int(refusal["retry_after"])


def _budget(
    refusal: dict[str, Any], whose: str, now: dt.datetime
) -> tuple[int, str, str, int | None]:
    def amount(name: str) -> str:
        value = int(refusal[name])
        return f"${dollars(value):.6f}" if refusal["unit"] == "nano" else f"{value} tokens"

    period = refusal["period"]
    detail = (
        f"The {period}'s budget of {whose} is {amount('limit')}: {amount('spent')} spent, "
        f"{amount('reserved')} held by jobs that have not ended, and this one may use "
        f"{amount('asked')}."
    )
    fits_later = refusal["spent"] + refusal["asked"] <= refusal["limit"]
    if fits_later:
        return 402, "budget-exhausted", f"{detail} It may fit when those have ended.", 5
    reset = _next_period(period, now)
    detail = f"{detail} The budget starts anew at {reset.isoformat()}."
    return 402, "budget-exhausted", detail, max(1, math.ceil((reset - now).total_seconds()))


def _next_period(period: str, now: dt.datetime) -> dt.datetime:
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return midnight + dt.timedelta(days=1)
    return (midnight.replace(day=1) + dt.timedelta(days=32)).replace(day=1)
