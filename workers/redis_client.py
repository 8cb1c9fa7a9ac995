"""A Redis client for questions on a job's way that have an answer without Redis, too."""

from __future__ import annotations

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def quick_redis(url: str, timeout_seconds: float = 1.0) -> Redis:
    """A client that gives up quickly: redis-py's own would retry for ten seconds and more.

    One retry, at once, takes a new connection where an idle one was closed.
    """
    return Redis.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 1),
    )
