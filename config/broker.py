"""kombu's Redis transport with one client a channel, and without books on hints.

A message of an inference lane only says that a job of the lane is ready. If it is lost with the
worker that took it, the reconciler finds a ready job without a message within a second and sends
another. kombu's own books, which bring an unacknowledged message back after minutes, are left out
for these: noting and acknowledging them took 29% of a busy worker's time.

kombu 5.7 makes a new `redis.Redis` for every command that it sends outside its own loop (to note
a message as delivered, to acknowledge it, to publish an event). Making them took 17% of the time of
a busy worker's main thread. A client is thread-safe and holds no connection of its own: the pool
does, and a channel whose pool was replaced after a lost connection gets a new client with it.

A channel that kombu could not close before it gave up its connection asks the connection for
Redis' address once more, and finds none. kombu 5.7 raises AttributeError there, which ends a worker
that lost Redis with a message in its hands; ours says that the connection is lost, and Celery
connects again. The message comes back after the visibility timeout.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import redis, virtual
from redis.exceptions import ConnectionError as RedisConnectionError

from config.celery import INFERENCE_QUEUES


class QoS(redis.QoS):
    """Keeps what is unacknowledged in Redis, but for hints, which are kept in memory alone."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """A message was taken."""
        if message.delivery_info["routing_key"] in INFERENCE_QUEUES:
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """A message was dealt with."""
        if self._is_hint(delivery_tag):
            virtual.QoS.ack(self, delivery_tag)
        else:
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """A message was not dealt with. A hint is dropped: the job is still there."""
        if self._is_hint(delivery_tag):
            virtual.QoS.ack(self, delivery_tag)
        else:
            super().reject(delivery_tag, requeue=requeue)

    def _is_hint(self, delivery_tag: str) -> bool:
        message = self._delivered.get(delivery_tag)
        return message is not None and message.delivery_info["routing_key"] in INFERENCE_QUEUES


class _OneClient:
    """Keeps the client that `_create_client` made, as long as its pool."""

    connection: Any
    pool: Any
    _kept: Any = None

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        if self.connection is None or self.connection.client is None:
            raise RedisConnectionError("the connection of this channel was given up")
        params: dict[str, Any] = super()._connparams(asynchronous=asynchronous)  # type: ignore[misc]
        return params

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous:  # these own a connection
            return super()._create_client(asynchronous=True)  # type: ignore[misc]
        kept = self._kept
        if kept is None or kept.connection_pool is not self.pool:
            kept = self._kept = super()._create_client()  # type: ignore[misc]
        return kept


class RedisChannel(_OneClient, redis.Channel):
    """A channel to one Redis."""

    QoS = QoS


class SentinelChannel(_OneClient, redis.SentinelChannel):
    """A channel to the primary that the Sentinels name."""

    QoS = QoS


class RedisTransport(redis.Transport):
    """For redis://, rediss:// and unix://."""

    Channel = RedisChannel


class SentinelTransport(redis.SentinelTransport):
    """For sentinel://."""

    Channel = SentinelChannel
