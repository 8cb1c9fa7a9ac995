"""Requests per user and window, kept in Redis for all API processes together.

Costs one Redis round trip a request: what is told in the headers is what the counting answered.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

import redis
from flask import Flask, Response, g, request
from flask_limiter import Limiter
from limits.storage import RedisStorage

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


def _user() -> str:
    caller = g.get("caller")
    return f"{caller.tenant}:{caller.user}" if caller else f"ip:{request.remote_addr}"


def _login() -> bool:
    """Asking for a token is limited by address."""
    return request.path.startswith("/v1/auth/")


def init_limits(
    app: Flask, settings: Settings, client: redis.Redis, submitting: Sequence[str]
) -> None:
    """Limit every authenticated call; the endpoints named in `submitting` share a lower limit."""
    window = f"per {settings.rate_limit_window} seconds"
    limiter = Limiter(
        _user,
        app=app,
        default_limits=[f"{settings.rate_limit_requests * READS_PER_SUBMISSION} {window}"],
        strategy="fixed-window",
        storage_uri="counted://",  # the connections are ours
        storage_options=cast(dict[str, str | int], {"connection_pool": client.connection_pool}),
        key_prefix=f"{settings.key_prefix}limits",
        swallow_errors=False,  # never let a silent Redis mean no limit
    )
    limiter.request_filter(lambda: "caller" not in g and not _login())  # health and documents
    submissions = limiter.shared_limit(
        f"{settings.rate_limit_requests} {window}", scope="submissions"
    )
    app.after_request(lambda response: _tell(limiter, response))
    views = cast(dict[str, Any], app.view_functions)
    for endpoint in submitting:
        views[endpoint] = submissions(views[endpoint])


def _tell(limiter: Limiter, response: Response) -> Response:
    """What is left, as the IETF draft (draft-ietf-httpapi-ratelimit-headers-10) and as custom."""
    limit = limiter.current_limit
    if limit is None:
        return response
    try:
        seconds = max(0, round(limit.reset_at - time.time()))
    except redis.RedisError:
        return response  # the request was counted; only the telling failed
    quota, window = limit.limit.amount, limit.limit.get_expiry()
    response.headers["X-RateLimit-Limit"] = str(quota)
    response.headers["X-RateLimit-Remaining"] = str(limit.remaining)
    response.headers["X-RateLimit-Reset"] = str(limit.reset_at)
    response.headers["RateLimit-Policy"] = f'"requests";q={quota};w={window}'
    response.headers["RateLimit"] = f'"requests";r={limit.remaining};t={seconds}'
    if limit.breached:
        response.headers["Retry-After"] = str(max(seconds, 1))
    return response
