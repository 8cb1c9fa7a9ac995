"""Requests per user and window, kept in Redis for all API processes together.

Costs one Redis round trip a request: what is told in the headers is what the counting answered.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import cast

import redis
from flask import Flask, Response, g, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from limits import RateLimitItem, RateLimitItemPerSecond, WindowStats
from limits.storage import RedisStorage

from app.identity import Caller
from app.problems import Problem
from config.settings import Settings

# Reading costs little and a client has to look at its jobs: reads get this many times the limit
# of submissions.
READS_PER_SUBMISSION = 10

# Count, and tell how long the window still lives.
_COUNT = """
local count = redis.call('INCRBY', KEYS[1], ARGV[2])
if count == tonumber(ARGV[2]) then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return {count, redis.call('PTTL', KEYS[1])}
"""


class CountedStorage(RedisStorage):
    """The library's storage, which would ask Redis twice more for what the headers say."""

    STORAGE_SCHEME = ["counted"]  # noqa: RUF012 - as the library declares it

    def initialize_storage(self, _uri: str) -> None:
        """Register the script."""
        self._count = self.storage.register_script(_COUNT)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count a request; the answer is kept for the rest of it."""
        count, left = self._count(keys=[self.prefixed_key(key)], args=[expiry, amount])
        g.setdefault("counted", {})[key] = count, time.time() + max(left, 0) / 1000
        return int(count)

    def get(self, key: str) -> int:
        """How many this window has counted, as this request was told."""
        return int(g.counted[key][0])

    def get_expiry(self, key: str) -> float:
        """When the window ends, in seconds since the epoch, as this request was told."""
        return float(g.counted[key][1])


def _whose() -> str | None:
    """Whom this request is counted for; None for health and documents, which are not counted."""
    caller: Caller | None = g.get("caller")
    if caller is not None:
        return f"{caller.tenant}:{caller.user}"
    if request.path.startswith("/v1/auth/"):  # asking for a token is limited by address
        return f"ip:{get_remote_address()}"
    return None


def init_limits(
    app: Flask, settings: Settings, client: redis.Redis, submitting: Collection[str]
) -> None:
    """Limit every authenticated call; the endpoints named in `submitting` share a lower limit.

    Every call has exactly one limit. It is counted here by the library's strategy and storage: the
    library's own search for the limits of a view takes a fifth of a submission's time.
    """
    limiter = Limiter(
        get_remote_address,
        app=app,
        strategy="fixed-window",
        storage_uri="counted://",  # the connections are ours
        storage_options=cast(dict[str, str | int], {"connection_pool": client.connection_pool}),
    )
    strategy = limiter.limiter
    limiter.enabled = False  # its search; see above
    most, window = settings.rate_limit_requests, settings.rate_limit_window
    namespace = f"{settings.key_prefix}limits"
    submissions = RateLimitItemPerSecond(most, window, namespace)
    reads = RateLimitItemPerSecond(most * READS_PER_SUBMISSION, window, namespace)

    def count() -> None:
        """Raises Problem 429 when this request is one too many."""
        who = _whose()
        if who is None:
            return
        if request.endpoint in submitting:
            limit, names = submissions, (who, "submissions")
        else:
            limit, names = reads, (who, str(request.endpoint))
        allowed = strategy.hit(limit, *names)
        stats = strategy.get_window_stats(limit, *names)
        g.limit_headers = _headers(limit, stats)
        if not allowed:
            raise Problem(
                429,
                "rate-limited",
                f"More than {limit}. Wait for the time in Retry-After.",
                headers={"Retry-After": str(max(1, round(stats.reset_time - time.time())))},
            )

    def tell(response: Response) -> Response:
        response.headers.update(g.get("limit_headers", {}))
        return response

    app.before_request(count)
    app.after_request(tell)


def _headers(limit: RateLimitItem, stats: WindowStats) -> dict[str, str]:
    """What is left, as the IETF draft (draft-ietf-httpapi-ratelimit-headers-10) and as custom."""
    quota, window = limit.amount, limit.get_expiry()
    seconds = max(0, round(stats.reset_time - time.time()))
    return {
        "X-RateLimit-Limit": str(quota),
        "X-RateLimit-Remaining": str(stats.remaining),
        "X-RateLimit-Reset": str(int(stats.reset_time)),
        "RateLimit-Policy": f'"requests";q={quota};w={window}',
        "RateLimit": f'"requests";r={stats.remaining};t={seconds}',
    }
