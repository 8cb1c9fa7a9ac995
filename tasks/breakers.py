"""The circuit breakers' shared state: its keys, and how to read it.

Workers write it (workers/router/lua/); the API reads it here to show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from redis import Redis

PREFIX = "inferenceflow:router:"

BreakerState = Literal["closed", "open", "half_open"]


@dataclass(frozen=True)
class BreakerStatus:
    """One circuit breaker: a provider's model, as the provider names it."""

    provider: str
    model: str
    state: BreakerState
    retry_in_seconds: float  # until the next probe may go; 0 unless open
    failures: int  # in a row
    openings: int  # in a row; each doubles the time that the circuit stays open
    shared: bool = True  # False: this process only, because Redis cannot be reached


def target_key(provider: str, model: str, prefix: str = PREFIX) -> str:
    """The hash of one target's breaker, pause and latency. Expires an hour after its last use."""
    return f"{prefix}target:{provider}/{model}"


def status_from(
    provider: str, model: str, fields: Mapping[str, float], now_ms: float, *, shared: bool = True
) -> BreakerStatus:
    """The status that the fields of a target's hash stand for."""
    until = fields.get("until", 0)
    state: BreakerState = "closed" if not until else "open" if until > now_ms else "half_open"
    return BreakerStatus(
        provider,
        model,
        state,
        max(0.0, until - now_ms) / 1000 if state == "open" else 0.0,
        int(fields.get("fails", 0)),
        int(fields.get("opens", 0)),
        shared,
    )


def read_breakers(
    client: Redis, targets: Sequence[tuple[str, str]], prefix: str = PREFIX
) -> list[BreakerStatus]:
    """The breakers of `targets` (provider, provider's model), in one round trip.

    Raises redis.RedisError.
    """
    names = ("until", "fails", "opens")
    with client.pipeline(transaction=False) as pipe:
        for provider, model in targets:
            pipe.hmget(target_key(provider, model, prefix), names)
        pipe.time()  # the clock that the breakers go by
        *rows, (seconds, microseconds) = pipe.execute()
    now_ms = seconds * 1000 + microseconds / 1000
    return [
        status_from(
            provider,
            model,
            {name: float(value) for name, value in zip(names, row, strict=True) if value},
            now_ms,
        )
        for (provider, model), row in zip(targets, rows, strict=True)
    ]
