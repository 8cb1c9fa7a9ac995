"""When a provider says to come back, in every form that they use, and what it still allows."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

MAX_WAIT_SECONDS = 86_400.0
RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)


@dataclass(frozen=True)
class Headroom:
    """What a provider said it still allows, at `seen` (time.monotonic())."""

    remaining_requests: int | None
    remaining_tokens: int | None
    reset_seconds: float | None  # until the exhausted one is full again
    seen: float

    @property
    def exhausted(self) -> bool:
        """Whether the next request is certain to be refused."""
        return self.remaining_requests == 0 or self.remaining_tokens == 0


def retry_after(headers: Mapping[str, str], details: Any = None) -> float | None:
    """Seconds until the provider wants to be asked again; None where it did not say.

    Reads, in this order: `retry-after-ms`; `retry-after` as seconds or as an HTTP date
    (RFC 9110, 10.2.3); google.rpc.RetryInfo in the error's `details`; the reset times of an
    exhausted limit. The result is within 0 and MAX_WAIT_SECONDS.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _bounded(milliseconds / 1000)
    given = headers.get("retry-after")
    if given is not None:
        seconds = _number(given)
        if seconds is None:
            seconds = _until_http_date(given)
        if seconds is not None:
            return _bounded(seconds)
    seconds = _retry_info(details)
    if seconds is not None:
        return _bounded(seconds)
    return headroom(headers).reset_seconds


def headroom(headers: Mapping[str, str]) -> Headroom:
    """The limits in OpenAI's (`x-ratelimit-*`) and Anthropic's (`anthropic-ratelimit-*`) headers.

    `reset_seconds` is given only for what is exhausted; of both, the later.
    """
    remaining: dict[str, int | None] = {"requests": None, "tokens": None}
    resets: list[float] = []
    for what in remaining:
        for left, reset in (
            (f"x-ratelimit-remaining-{what}", f"x-ratelimit-reset-{what}"),
            (f"anthropic-ratelimit-{what}-remaining", f"anthropic-ratelimit-{what}-reset"),
        ):
            count = _number(headers.get(left))
            if count is None:
                continue
            remaining[what] = int(count)
            seconds = _reset(headers.get(reset))
            if int(count) == 0 and seconds is not None:
                resets.append(_bounded(seconds))
    return Headroom(
        remaining["requests"],
        remaining["tokens"],
        max(resets) if resets else None,
        time.monotonic(),
    )


def duration(text: str) -> float | None:
    """Seconds of a duration such as `6m0s`, `120ms`, `38s` or `1.5s`; None for anything else."""
    text = text.strip()
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), MAX_WAIT_SECONDS)


def _until_http_date(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return _until(moment)


def _until(moment: datetime) -> float:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - datetime.now(UTC)).total_seconds()


def _reset(text: str | None) -> float | None:
    """A reset as a duration (OpenAI), seconds (others) or an RFC 3339 time (Anthropic)."""
    if text is None:
        return None
    seconds = duration(text)
    if seconds is None:
        seconds = _number(text)
    if seconds is None:
        try:
            seconds = _until(datetime.fromisoformat(text))
        except (ValueError, OverflowError):
            return None
    return seconds


def _retry_info(details: Any) -> float | None:
    if not isinstance(details, list):
        return None
    for detail in details:
        if isinstance(detail, dict) and detail.get("@type") == RETRY_INFO:
            delay = detail.get("retryDelay")
            if isinstance(delay, str):
                return duration(delay)
    return None
