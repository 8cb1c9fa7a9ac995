"""Requests per client and window, kept in Redis for all API processes together.

A submission is counted by the script that records it, so its limit costs no round trip of its own;
every other request is counted in one, before anything else is done. What is told in the headers is
what the counting answered.

flask-limiter's engine (`limits`) counts. Its hooks around every request are left out: they search
for the limits of a view, of which every call has exactly one here, and every call pays for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection

import redis
from flask import Flask, Response, g, request
from flask_limiter.util import get_remote_address
from limits import RateLimitItemPerSecond
from limits.storage import RedisStorage
from limits.strategies import FixedWindowRateLimiter

from app.identity import Caller
from app.problems import Problem
from config.settings import Settings
from tasks.ledger import RateLimitedError
from tasks.rate import RateWindow

logger = logging.getLogger(__name__)

# Reading costs little and a client has to look at its jobs: reads get this many times the limit
# of submissions.
READS_PER_SUBMISSION = 10
MOST_KNOWN = 10_000  # clients over their limit that a process remembers

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
        """Count a request, and note the answer for the rest of it."""
        count, left_ms = self._count(keys=[self.prefixed_key(key)], args=[expiry, amount])
        g.rate.note(count, left_ms)
        return int(count)


class Exceeded:
    """Who is known to be over its limit: refused again without asking Redis or reading the body."""

    def __init__(self) -> None:
        self._known: dict[str, RateWindow] = {}

    def find(self, key: str) -> RateWindow | None:
        """The window that a client has used up, while it lasts."""
        known = self._known.get(key)
        return known if known is not None and known.ends_at > time.time() else None

    def add(self, rate: RateWindow) -> None:
        """Remember a used up window; when there are very many, those that ended are forgotten."""
        if len(self._known) >= MOST_KNOWN:
            now = time.time()
            self._known = {key: old for key, old in self._known.items() if old.ends_at > now}
        if len(self._known) < MOST_KNOWN:
            self._known[rate.key] = rate


def _whose() -> str | None:
    """Whom this request is counted for; None for health and documents, which are not counted."""
    caller: Caller | None = g.get("caller")
    if caller is not None:
        return f"{caller.tenant}:{caller.user}"
    if request.path.startswith("/v1/auth/"):  # asking for a token is limited by address
        return f"ip:{get_remote_address()}"
    return None


def init_limits(
    app: Flask,
    settings: Settings,
    client: redis.Redis,
    *,
    submitting: Collection[str],
    recording: Collection[str],
) -> None:
    """Limit every authenticated call; the endpoints named in `submitting` share a lower limit.

    Those named in `recording` are counted by the ledger, which is given `g.rate`.
    """
    storage = CountedStorage("counted://", connection_pool=client.connection_pool)
    strategy = FixedWindowRateLimiter(storage)
    most, window = settings.rate_limit_requests, settings.rate_limit_window
    namespace = f"{settings.key_prefix}limits"
    submissions = RateLimitItemPerSecond(most, window, namespace)
    reads = RateLimitItemPerSecond(most * READS_PER_SUBMISSION, window, namespace)
    exceeded = Exceeded()

    def begin() -> None:
        """Raises Problem 429 when this request is one too many."""
        who = _whose()
        if who is None:
            return
        if request.endpoint in submitting:
            limit, names = submissions, (who, "submissions")
        else:
            limit, names = reads, (who, str(request.endpoint))
        key = storage.prefixed_key(limit.key_for(*names))
        known = exceeded.find(key)
        g.rate = known or RateWindow(key, limit.amount, window)
        if known is not None:
            raise _too_many(known)
        if request.endpoint not in recording and not strategy.hit(limit, *names):
            exceeded.add(g.rate)
            raise _too_many(g.rate)

    def limited(_error: RateLimitedError) -> Response:
        exceeded.add(g.rate)
        return _too_many(g.rate).response()

    def tell(response: Response) -> Response:
        rate: RateWindow | None = g.get("rate")
        if rate is None:
            return response
        if rate.count is None and response.status_code < 500:
            # Refused before it came to the ledger, which would have counted it.
            try:
                if not strategy.hit(submissions, _whose() or "", "submissions"):
                    exceeded.add(rate)
            except redis.RedisError as error:
                logger.warning(
                    "refused request not counted",
                    extra={"action": "limit_not_counted", "error": type(error).__name__},
                )
        if rate.count is not None:
            response.headers.update(_headers(rate))
        return response

    app.before_request(begin)
    app.after_request(tell)
    app.register_error_handler(RateLimitedError, limited)


def _too_many(rate: RateWindow) -> Problem:
    return Problem(
        429,
        "rate-limited",
        f"More than {rate.most} requests in {rate.seconds} s. Wait for the time in Retry-After.",
        headers={"Retry-After": str(max(1, round(rate.ends_at - time.time())))},
    )


def _headers(rate: RateWindow) -> dict[str, str]:
    """What is left, as the IETF draft (draft-ietf-httpapi-ratelimit-headers-10) and as custom."""
    seconds = max(0, round(rate.ends_at - time.time()))
    return {
        "X-RateLimit-Limit": str(rate.most),
        "X-RateLimit-Remaining": str(rate.left),
        "X-RateLimit-Reset": str(int(rate.ends_at)),
        "RateLimit-Policy": f'"requests";q={rate.most};w={rate.seconds}',
        "RateLimit": f'"requests";r={rate.left};t={seconds}',
    }
