"""Connections to Redis, with the timeouts that keep a caller from waiting for ever.

A command costs two thirds of what the library's own client takes for it (`python -m
benchmarks.redis_commands`): no system call that asks whether an idle connection is still good, as
a broken one is found by its first command and that is tried once more, and no telemetry of the
library's, as nothing here reads it.
"""

from __future__ import annotations

import contextlib
from queue import Empty, Full
from typing import Any

import redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError, TimeoutError  # noqa: A004 - those of Redis
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from config.sentinel import is_sentinel, parse_sentinel_url

# Threads wait this long for a free connection before they give up, like for Redis itself.
POOL_SIZE = 64


class _Pool(redis.BlockingConnectionPool):
    """Hands out the connection used last, as it is."""

    def get_connection(
        self, command_name: str | None = None, *_keys: Any, **_options: Any
    ) -> redis.Connection:
        """A connection of the caller's until `release`. Raises ConnectionError if none comes."""
        self._checkpid()
        try:
            connection: redis.Connection | None = self.pool.get(timeout=self.timeout)
        except Empty:
            raise ConnectionError("No connection available.") from None
        if connection is None:
            connection = self.make_connection()  # type: ignore[no-untyped-call]
        return connection

    def release(self, connection: Any) -> None:
        """Take a connection back."""
        self._checkpid()
        if not self.owns_connection(connection):  # made before a fork
            connection.disconnect()
            connection = None
        with contextlib.suppress(Full):  # a fork has filled the child's pool anew
            self.pool.put_nowait(connection)


class Client(redis.Redis):
    """The library's client with a shorter way from a command to its answer."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command and parse its answer. Raises redis.RedisError."""
        pool = self.connection_pool
        connection: Any = pool.get_connection()

        def send() -> Any:
            connection.send_command(*args, **options)
            return self.parse_response(connection, args[0], **options)  # type: ignore[no-untyped-call]

        try:
            return connection.retry.call_with_retry(send, lambda _error: connection.disconnect())
        finally:
            pool.release(connection)


class _BlockingSentinelPool(SentinelConnectionPool, redis.BlockingConnectionPool):
    """Connections to whichever server the Sentinels call the primary when they are made.

    A connection to a server that is no longer the primary is dropped when it is given back, or
    at the first write that the server refuses.
    """


def connect(
    url: str, *, timeout: float = 1.0, pool_size: int = POOL_SIZE, retry_timeouts: bool = True
) -> Client:
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
        return Client(connection_pool=_Pool.from_url(url, **pooled))
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
    return Client(connection_pool=pool)
