"""Connections to Redis, with the timeouts that keep a caller from waiting for ever."""

from __future__ import annotations

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

# Threads wait this long for a free connection before they give up, like for Redis itself.
POOL_SIZE = 64


def connect(url: str, *, timeout: float = 1.0, pool_size: int = POOL_SIZE) -> redis.Redis:
    """A thread-safe client. `timeout` in seconds bounds connecting and each command.

    One command is tried once more after a broken connection, as every pooled connection is broken
    after a restart of Redis. Every ledger script is safe to repeat.
    """
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=pool_size,
        timeout=timeout,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        socket_keepalive=True,
        health_check_interval=30,
        retry=Retry(ConstantBackoff(0.05), 1),
        retry_on_error=[redis.exceptions.ConnectionError],
    )
    return redis.Redis(connection_pool=pool)
