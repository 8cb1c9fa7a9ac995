"""Counting the requests of one client in a fixed window of time.

A submission is counted in the step that records it (tasks/lua/submit.lua), every other request by
the API in a step of its own (app/limits.py).
"""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass
class RateWindow:
    """One client's window; `note` fills in what Redis answered for this request."""

    key: str  # of the counter in Redis, whole
    most: int  # requests in a window
    seconds: int  # that a window lasts from its first request
    count: int | None = None  # with this request; None: not counted yet
    ends_at: float = 0.0  # seconds since the epoch

    def note(self, count: int, left_ms: int) -> None:
        """This request was number `count` of a window that lives for `left_ms`."""
        self.count = count
        self.ends_at = time.time() + max(left_ms, 0) / 1000

    @property
    def left(self) -> int:
        """Requests that the window still allows."""
        return max(0, self.most - (self.count or 0))
