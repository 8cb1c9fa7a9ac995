"""How much work arrived: minute buckets per queue in Redis, counted at the API.

The scaler forecasts from these counters, because arrivals, unlike the queue's depth, do not
depend on how many workers there are.

Keys, exactly as a Lua script that writes them itself must form them::

    {prefix}arrivals:{queue}:{YYYYMMDDHH}     a hash, one per queue and UTC hour
        {MM}:r   requests that arrived in that minute     HINCRBY 1
        {MM}:t   tokens that they are estimated to cost   HINCRBY tokens
        EXPIRE 1296000 (15 days) at every write

`MM` is the minute of the hour with two digits. A missing field is 0; a missing hash means that
nothing arrived in that hour, or that nothing was counted yet. `prefix` is that of all keys of the
deployment and may be empty.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

ARRIVALS_TTL_SECONDS = 15 * 86_400


@dataclass(frozen=True)
class Arrivals:
    """Arrivals per minute, oldest first, without gaps; the last minute is still running.

    Minutes before the first one that was ever counted are left out, so that a fresh deployment
    is not mistaken for one without traffic.
    """

    queue: str
    start: int  # unix seconds at which the first minute begins
    requests: tuple[int, ...]
    tokens: tuple[int, ...]

    @property
    def minutes(self) -> int:
        """How many minutes are known, the running one included."""
        return len(self.requests)


def arrivals_key(queue: str, now: float, *, prefix: str = "") -> str:
    """The hash that counts arrivals in `queue` in the UTC hour of `now` (unix seconds)."""
    return f"{prefix}arrivals:{queue}:{datetime.fromtimestamp(now, UTC):%Y%m%d%H}"


def record_arrival(
    client: Any,
    queue: str,
    tokens: int,
    now: float | None = None,
    *,
    requests: int = 1,
    prefix: str = "",
) -> None:
    """Count `requests` arrivals with `tokens` estimated tokens together.

    `client` is a Redis client or a pipeline; on a pipeline nothing is sent until it executes.
    """
    now = time.time() if now is None else now
    key = arrivals_key(queue, now, prefix=prefix)
    minute = f"{int(now) // 60 % 60:02d}"
    client.hincrby(key, f"{minute}:r", requests)
    client.hincrby(key, f"{minute}:t", tokens)
    client.expire(key, ARRIVALS_TTL_SECONDS)


def read_arrivals(
    client: Any,
    queue: str,
    lookback: float,
    *,
    now: float | None = None,
    prefix: str = "",
) -> Arrivals:
    """The arrivals of the last `lookback` seconds up to and with the running minute.

    Costs one round trip with one HGETALL per hour of `lookback`.
    """
    now = time.time() if now is None else now
    last = int(now) // 60 * 60
    first = last - int(lookback) // 60 * 60
    hours = range(first // 3600 * 3600, last + 1, 3600)
    with client.pipeline(transaction=False) as pipe:
        for hour in hours:
            pipe.hgetall(arrivals_key(queue, hour, prefix=prefix))
        hashes = cast("list[dict[bytes | str, bytes | str]]", pipe.execute())
    counts: dict[tuple[int, str], int] = {}
    for hour, fields in zip(hours, hashes, strict=True):
        for field, value in fields.items():
            name = field.decode() if isinstance(field, bytes) else field
            minute, _, kind = name.partition(":")
            counts[hour + 60 * int(minute), kind] = int(value)
    begin = max(first, min((minute for minute, _ in counts), default=last))
    minutes = range(begin, last + 1, 60)
    return Arrivals(
        queue=queue,
        start=begin,
        requests=tuple(counts.get((minute, "r"), 0) for minute in minutes),
        tokens=tuple(counts.get((minute, "t"), 0) for minute in minutes),
    )
