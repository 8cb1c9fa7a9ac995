"""The cache's counters in Redis: their keys, and how to read them.

Workers write them (`workers/cache/evidence.py`, `workers/cache/store.lua`); the API reads them
here, to show them without loading what a cache needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import redis

from tasks.fingerprint import digest


def stats_key(prefix: str, pool: str | None = None) -> str:
    """The hash of counters of one pool, or of all pools together."""
    return f"{prefix}:stats" if pool is None else f"{prefix}:stats:{digest(pool)}"


def read_counters(client: redis.Redis, prefix: str, pool: str | None = None) -> dict[str, float]:
    """The counters by name. Raises redis.RedisError."""
    found = cast("dict[bytes, bytes]", client.hgetall(stats_key(prefix, pool)))
    return {name.decode(): float(value) for name, value in found.items()}


def summary(counters: Mapping[str, float]) -> dict[str, Any]:
    """Lookups, hits by layer, vetoes and savings, as `GET /v1/cache/stats` shows them."""
    exact, semantic = counters.get("hit_exact", 0.0), counters.get("hit_semantic", 0.0)
    lookups = exact + semantic + counters.get("miss", 0.0)
    return {
        "lookups": int(lookups),
        "hits": {"exact": int(exact), "semantic": int(semantic)},
        "hit_rate": (exact + semantic) / lookups if lookups else 0.0,
        "exact_hit_rate": exact / lookups if lookups else 0.0,
        "vetoes": {
            name.removeprefix("veto_"): int(value)
            for name, value in counters.items()
            if name.startswith("veto_")
        },
        "skipped_busy": int(counters.get("skipped_busy", 0)),
        "saved_cost": counters.get("saved_cost", 0.0),
        "saved_seconds": counters.get("saved_seconds", 0.0),
        "reported_wrong": int(counters.get("reported_wrong", 0)),
        "shadow": {
            "judged": int(counters.get("shadow_judged", 0)),
            "wrong": int(counters.get("shadow_wrong", 0)),
        },
    }


@dataclass(frozen=True)
class StoredBytes:
    """What all entries together take."""

    bytes: int
    entries: int
    evicted: int
    expired: int


def read_usage(client: redis.Redis, prefix: str) -> StoredBytes:
    """What is stored now, by the store's own bookkeeping. Raises redis.RedisError."""
    with client.pipeline() as pipe:
        pipe.hgetall(f"{prefix}:totals")
        pipe.hlen(f"{prefix}:sizes")
        totals, entries = pipe.execute()
    read = {key.decode(): float(value) for key, value in totals.items()}
    return StoredBytes(
        bytes=int(read.get("bytes", 0)),
        entries=int(entries),
        evicted=int(read.get("evicted", 0)),
        expired=int(read.get("expired", 0)),
    )
