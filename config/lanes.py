"""Settings with one value for each priority, written as `high=5,normal=60,low=300`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

LANES = ("high", "normal", "low")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # of a Kubernetes object


def by_lane(text: str) -> dict[str, str]:
    """The values by lane. Raises ValueError unless each lane is named once."""
    pairs = [part.partition("=") for part in text.split(",")]
    found = {lane.strip(): value.strip() for lane, _, value in pairs}
    if len(pairs) != len(LANES) or set(found) != set(LANES):
        raise ValueError("must be written as high=...,normal=...,low=...")
    return found


def counts_by_lane(text: str) -> dict[str, int]:
    """Whole numbers by lane, 0 to 1000. Raises ValueError."""
    found = {lane: int(value) for lane, value in by_lane(text).items() if value.isdecimal()}
    if len(found) != len(LANES) or max(found.values()) > 1000:
        raise ValueError("must give whole numbers from 0 to 1000")
    return found


def seconds_by_lane(text: str) -> dict[str, float]:
    """Seconds by lane, above 0. Raises ValueError."""
    try:
        found = {lane: float(value) for lane, value in by_lane(text).items()}
    except ValueError:
        raise ValueError("must be written as high=SECONDS,normal=SECONDS,low=SECONDS") from None
    if not all(0.0 < value <= 604_800.0 for value in found.values()):
        raise ValueError("must give seconds above 0, a week at most")
    return found


def _counts(text: str) -> str:
    counts_by_lane(text)
    return text


def _seconds(text: str) -> str:
    seconds_by_lane(text)
    return text


def _names(text: str) -> str:
    if not all(_NAME.fullmatch(value) for value in by_lane(text).values()):
        raise ValueError("must give names of Deployments")
    return text


LaneCounts = Annotated[str, AfterValidator(_counts)]
LaneSeconds = Annotated[str, AfterValidator(_seconds)]
LaneNames = Annotated[str, AfterValidator(_names)]
