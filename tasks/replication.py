"""Waiting for a replica of Redis before a job counts as accepted.

Redis copies to its replicas after it has answered. What it answered in between is lost when it
dies and a replica takes its place. WAIT, sent behind the script on the same connection, holds the
answer back until replicas have the script's writes. It also covers a repeated call that finds
its work done and writes nothing: WAIT counts from the newest write that the connection could see.

Sentinel promotes the replica that has copied most, so a job that one replica acknowledged
survives the loss of the primary, as long as not that replica is lost with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis


@dataclass(frozen=True)
class Replication:
    """How many replicas must have a write, and how long to wait for them."""

    timeout_seconds: float
    replicas: int = 1


def call_replicated(
    client: redis.Redis, script: Any, args: Sequence[object], wanted: Replication
) -> tuple[Any, bool]:
    """The script's reply, and whether enough replicas have what it wrote. One round trip.

    Raises redis.RedisError as the script itself would.
    """
    reply, acknowledged = _send(client, script, args, wanted)
    if isinstance(reply, redis.exceptions.NoScriptError):
        client.script_load(script.script)
        reply, acknowledged = _send(client, script, args, wanted)
    for answer in (reply, acknowledged):
        if isinstance(answer, redis.RedisError):
            raise answer
    return reply, acknowledged >= wanted.replicas


def _send(client: redis.Redis, script: Any, args: Sequence[object], wanted: Replication) -> Any:
    pipe = client.pipeline(transaction=False)
    pipe.evalsha(script.sha, 0, *args)  # type: ignore[arg-type]
    pipe.wait(wanted.replicas, round(wanted.timeout_seconds * 1000))
    # The pipeline's own errors would repeat the arguments, and so the prompt.
    return pipe.execute(raise_on_error=False)
