"""Which workers live, and which queues they serve, without anything written.

A worker process subscribes to one Redis channel for each lane that it serves, on the connection
on which it hears of cancellations anyway. Nothing is sent there; Redis lists the channels that
somebody listens to, and one is gone as soon as its worker is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from config.celery import INFERENCE_QUEUES


def presence_channels(prefix: str, worker: str, queues: Iterable[str]) -> list[str]:
    """The channels of a worker that consumes `queues`."""
    return [
        f"{prefix}serving:{queue.removeprefix('inference.')}:{worker}"
        for queue in queues
        if queue in INFERENCE_QUEUES
    ]


def present_workers(client: Any, prefix: str, lane: str) -> list[str]:
    """The workers that serve `lane` now. Raises redis.RedisError."""
    start = f"{prefix}serving:{lane}:"
    channels = cast("list[bytes]", client.pubsub_channels(f"{start}*"))
    return sorted(channel.decode().removeprefix(start) for channel in channels)
