"""What the cache did, as it lies in Redis: its keys, and how to read them.

Workers write it (`workers/cache/evidence.py`, `workers/cache/shadow.py`,
`workers/cache/store.lua`), and what is used `tasks/cache_uses.py`; the API reads it here, to show
it without loading what a cache needs.

<prefix>:stats, :stats:<pool>   see tasks/cache_uses.py
<prefix>:judged                 zset pool -> hits of it that were ever judged
<prefix>:judgements             hash pool -> what they say, as JSON
<prefix>:verifier               the build of the verifier in use; judgements of others are not shown
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import orjson
import redis

from tasks.exact_cache import ExactCache
from tasks.fingerprint import digest

MOST_JUDGED_POOLS = 10_000  # of which something is known
SHOWN_POOLS = 50
SHOWN_ENTRIES = 10
LOOKED_AT = 50  # ranked entries, of which some may have ended since


def stats_key(prefix: str, pool: str | None = None) -> str:
    """The hash of counters of one pool, or of all pools together."""
    return f"{prefix}:stats" if pool is None else f"{prefix}:stats:{digest(pool)}"


def hits_key(prefix: str, pool: str | None = None) -> str:
    """The rank of entries by hits, of one pool, or of all pools together."""
    return f"{prefix}:hits" if pool is None else f"{prefix}:hits:{digest(pool)}"


@dataclass(frozen=True)
class ErrorEstimate:
    """Wrong answers per semantic hit of one pool, since its bar last moved."""

    rate: float
    low: float  # 95% interval
    high: float
    judged: int


@dataclass(frozen=True)
class Judgements:
    """What judging the semantic hits of one pool has led to."""

    pool: str
    verifier: str  # its build, whose hits and scores these are
    bar: float  # least score of a semantic hit in this pool now, unless its route asks for more
    estimate: ErrorEstimate | None = None  # None: nothing was judged since the bar moved


def verifier_key(prefix: str) -> str:
    """Where the build of the verifier in use is written."""
    return f"{prefix}:verifier"


def write_judgements(pipeline: Any, prefix: str, found: Judgements) -> None:
    """Queue one more judgement of a pool."""
    pipeline.zincrby(f"{prefix}:judged", 1, found.pool)
    pipeline.zremrangebyrank(f"{prefix}:judged", 0, -MOST_JUDGED_POOLS - 1)
    pipeline.hset(f"{prefix}:judgements", found.pool, orjson.dumps(asdict(found)))


def forget_judgements(pipeline: Any, prefix: str, pool: str | None) -> None:
    """Queue that what judging led to is not shown any more, of one pool or of all."""
    if pool is None:
        pipeline.delete(f"{prefix}:judged", f"{prefix}:judgements")
    else:
        pipeline.zrem(f"{prefix}:judged", pool)
        pipeline.hdel(f"{prefix}:judgements", pool)


def read_judgements(client: redis.Redis, prefix: str, *pools: str) -> list[Judgements]:
    """Of these pools, or of those that most hits were judged of. Raises redis.RedisError."""
    names: list[Any] = list(pools) or cast(
        "list[Any]", client.zrevrange(f"{prefix}:judged", 0, SHOWN_POOLS - 1)
    )
    if not names:
        return []
    with client.pipeline(transaction=False) as pipe:
        pipe.get(verifier_key(prefix))
        pipe.hmget(f"{prefix}:judgements", names)
        build, values = pipe.execute()
    found = []
    for record in (orjson.loads(value) for value in values if value is not None):
        estimate = record.pop("estimate")
        found.append(Judgements(**record, estimate=estimate and ErrorEstimate(**estimate)))
    return [one for one in found if one.verifier.encode() == build]


def read_counters(client: redis.Redis, prefix: str, pool: str | None = None) -> dict[str, float]:
    """The counters by name. Raises redis.RedisError."""
    found = cast("dict[bytes, bytes]", client.hgetall(stats_key(prefix, pool)))
    return {name.decode(): float(value) for name, value in found.items()}


def pool_report(client: redis.Redis, prefix: str, pool: str, bar: float) -> dict[str, Any]:
    """What the cache did for one pool, as `GET /v1/cache/stats` shows it. Raises redis.RedisError.

    `bar`: the least score where judging did not raise it. Memory is left out: it would tell of
    others.
    """
    judged = read_judgements(client, prefix, pool)
    estimate = judged[0].estimate if judged else None
    hits = _top(client, hits_key(prefix, pool))
    entries = ExactCache(client, prefix).get_many([name for name, _ in hits], pool)
    return {
        **_summary(read_counters(client, prefix, pool)),
        "verifier_bar": max(bar, judged[0].bar) if judged else bar,
        "error_estimate": asdict(estimate) if estimate else None,
        "top_entries": [
            {"prompt": entry.prompt, "model": entry.answer.model, "hits": count}
            for entry, (_, count) in zip(entries, hits, strict=True)
            if entry is not None
        ][:SHOWN_ENTRIES],
    }


def whole_report(client: redis.Redis, prefix: str) -> dict[str, Any]:
    """What the cache did for all, for who runs it: no prompt is in it. Raises redis.RedisError."""
    usage = read_usage(client, prefix)
    return {
        **_summary(read_counters(client, prefix)),
        "memory": {"bytes": usage.bytes, "entries": usage.entries},
        "evicted": usage.evicted,
        "expired": usage.expired,
        "top_entries": [
            {"fingerprint": name, "hits": count}
            for name, count in _top(client, hits_key(prefix))[:SHOWN_ENTRIES]
        ],
        "judged_pools": [asdict(one) for one in read_judgements(client, prefix)],
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
