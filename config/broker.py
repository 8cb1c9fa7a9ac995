"""kombu's Redis transport with one client a channel.

kombu 5.7 makes a new `redis.Redis` for every command that it sends outside its own loop (to note
a message as delivered, to acknowledge it, to publish an event). Making them took 17% of the time of
a busy worker's main thread. A client is thread-safe and holds no connection of its own: the pool
does, and a channel whose pool was replaced after a lost connection gets a new client with it.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import redis


class _OneClient:
    """Keeps the client that `_create_client` made, as long as its pool."""

    pool: Any
    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous:  # these own a connection
            return super()._create_client(asynchronous=True)  # type: ignore[misc]
        kept = self._kept
        if kept is None or kept.connection_pool is not self.pool:
            kept = self._kept = super()._create_client()  # type: ignore[misc]
        return kept


class RedisChannel(_OneClient, redis.Channel):
    """A channel to one Redis."""


class SentinelChannel(_OneClient, redis.SentinelChannel):
    """A channel to the primary that the Sentinels name."""


class RedisTransport(redis.Transport):
    """For redis://, rediss:// and unix://."""

    Channel = RedisChannel


class SentinelTransport(redis.SentinelTransport):
    """For sentinel://."""

    Channel = SentinelChannel
