"""Connections to Redis, with the timeouts that keep a caller from waiting for ever."""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError, TimeoutError  # noqa: A004 - those of Redis
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from config.sentinel import is_sentinel, parse_sentinel_url

# Threads wait this long for a free connection before they give up, like for Redis itself.
POOL_SIZE = 64


class _BlockingSentinelPool(SentinelConnectionPool, redis.BlockingConnectionPool):
    """Connections to whichever server the Sentinels call the primary when they are made.

    A connection to a server that is no longer the primary is dropped when it is given back, or
    at the first write that the server refuses.
    """


def connect(
    url: str, *, timeout: float = 1.0, pool_size: int = POOL_SIZE, retry_timeouts: bool = True
) -> redis.Redis:
    """A thread-safe client. `timeout` in seconds bounds connecting and each command.

    One command is tried once more after a broken connection, as every pooled connection is broken
    after a restart of Redis or a failover. Every ledger script is safe to repeat.
    `retry_timeouts`: also after a timeout; not where somebody waits for a quick refusal.
    """
    retried = (ConnectionError, TimeoutError) if retry_timeouts else (ConnectionError,)
    sockets: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "socket_keepalive": True,
    }
    pooled: dict[str, Any] = {
        "max_connections": pool_size,
        "timeout": timeout,
        "health_check_interval": 30,
        "retry": Retry(ConstantBackoff(0.05), 1, supported_errors=retried),
        "retry_on_error": [redis.exceptions.ConnectionError],
        **sockets,
    }
    if not is_sentinel(url):
        return redis.Redis(connection_pool=redis.BlockingConnectionPool.from_url(url, **pooled))
    address = parse_sentinel_url(url)
    # One Sentinel that is down must not use up the time that the others need.
    sentinels = Sentinel(  # type: ignore[no-untyped-call]
        address.nodes, sentinel_kwargs={**sockets, **address.sentinel_options}, **sockets
    )
    pool = _BlockingSentinelPool(  # type: ignore[no-untyped-call]
        address.primary,
        sentinels,
        db=address.database,
        username=address.username,
        password=address.password,
        **pooled,
    )
    return redis.Redis(connection_pool=pool)
