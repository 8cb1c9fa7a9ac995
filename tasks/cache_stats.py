"""What the cache did, as it lies in Redis: its keys, and how to read them.

Workers write it (`workers/cache/evidence.py`, `workers/cache/store.lua`), and what is used
`tasks/cache_uses.py`; the API reads it here, to show it without loading what a cache needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import redis

from tasks.cache_judgements import judged_pools, read_judgements
from tasks.exact_cache import ExactCache
from tasks.fingerprint import digest

SHOWN_ENTRIES = 10
LOOKED_AT = 50  # ranked entries, of which some may have ended since


def stats_key(prefix: str, pool: str | None = None) -> str:
    """The hash of counters of one pool, or of all pools together."""
    return f"{prefix}:stats" if pool is None else f"{prefix}:stats:{digest(pool)}"


def hits_key(prefix: str, pool: str | None = None) -> str:
    """The rank of entries by hits, of one pool, or of all pools together."""
    return f"{prefix}:hits" if pool is None else f"{prefix}:hits:{digest(pool)}"


def read_counters(client: redis.Redis, prefix: str, pool: str | None = None) -> dict[str, float]:
    """The counters by name. Raises redis.RedisError."""
    found = cast("dict[bytes, bytes]", client.hgetall(stats_key(prefix, pool)))
    return {name.decode(): float(value) for name, value in found.items()}


def pool_report(
    client: redis.Redis, prefix: str, pool: str, bar: float, *, prompts: bool
) -> dict[str, Any]:
    """What the cache did for one pool, as `GET /v1/cache/stats` shows it. Raises redis.RedisError.

    `bar`: the least score where judging did not raise it. `prompts`: whether the reader may see
    what others of the pool asked. Memory is left out: it would tell of other pools.
    """
    (judged,) = read_judgements(client, prefix, pool)
    hits = _top(client, hits_key(prefix, pool))
    entries = ExactCache(client, prefix).get_many([name for name, _ in hits], pool)
    return {
        **_summary(read_counters(client, prefix, pool)),
        "verifier_bar": max(bar, judged.bar),
        "error_estimate": asdict(judged.estimate) if judged.estimate else None,
        "top_entries": [
            {
                "entry": entry.fingerprint,
                "model": entry.answer.model,
                "hits": count,
                **({"prompt": entry.prompt} if prompts else {}),
            }
            for entry, (_, count) in zip(entries, hits, strict=True)
            if entry is not None
        ][:SHOWN_ENTRIES],
    }


def whole_report(client: redis.Redis, prefix: str) -> dict[str, Any]:
    """What the cache did for all, for who runs it: no prompt is in it. Raises redis.RedisError."""
    usage = read_usage(client, prefix)
    pools = judged_pools(client, prefix)
    return {
        **_summary(read_counters(client, prefix)),
        "memory": {"bytes": usage.bytes, "entries": usage.entries},
        "evicted": usage.evicted,
        "expired": usage.expired,
        "top_entries": [
            {"fingerprint": name, "hits": count}
            for name, count in _top(client, hits_key(prefix))[:SHOWN_ENTRIES]
        ],
        "judged_pools": [asdict(one) for one in read_judgements(client, prefix, *pools)],
    }


def _top(client: redis.Redis, key: str) -> list[tuple[str, int]]:
    """The most used entries: (fingerprint, hits)."""
    found = cast(
        "list[tuple[bytes, float]]", client.zrevrange(key, 0, LOOKED_AT - 1, withscores=True)
    )
    return [(name.decode(), int(hits)) for name, hits in found]


def _summary(counters: Mapping[str, float]) -> dict[str, Any]:
    """Lookups, hits by layer, vetoes and savings."""
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
