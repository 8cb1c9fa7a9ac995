"""What was learned from use, kept in Redis: wrong pairs, raised bars, counters.

Evidence only ever tightens: it can refuse a pair, raise an entry's or a tenant's bar, never lower
one below the policy's. A raised bar is a score of the verifier that it was raised under, so it is
kept with that verifier's build, and no other build heeds it. (`bars` and `pool_bars` held bare
numbers; workers of that version may still read them during an update.)

    <prefix>:wrong           zset of refused pairs, by time; the oldest are forgotten
    <prefix>:verifier_bars   hash fingerprint -> build and least verifier score for this entry
    and the counters of tasks/cache_uses.py, and the bars of pools in tasks/cache_judgements.py
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis

from tasks import cache_uses
from tasks.cache_judgements import (
    MOST_JUDGED_POOLS,
    judged_pools,
    pool_bars_key,
    read_bar,
    window_key,
    written_bar,
)
from tasks.cache_stats import hits_key
from tasks.fingerprint import digest

MOST_WRONG_PAIRS = 100_000


def pair_name(first: str, second: str) -> str:
    """One name for two fingerprints, in either order."""
    return digest("pair", *sorted((first, second)))


@dataclass(frozen=True)
class Evidence:
    """What stands against serving one entry for one request."""

    wrong: bool = False
    bar: float = 0.0


class EvidenceBook:
    """Reads and writes the evidence under one prefix."""

    def __init__(self, client: redis.Redis, prefix: str, build: str) -> None:
        """`build` names the verifier whose scores the bars are."""
        self.client, self.build = client, build
        self.wrong, self.bars = f"{prefix}:wrong", f"{prefix}:verifier_bars"
        self.pool_bars, self.hits = pool_bars_key(prefix), hits_key(prefix)
        self.prefix = prefix

    def ask(self, pipeline: Any, pool: str, wanted: str, stored: Sequence[str]) -> None:
        """Queue the reads on `pipeline`: two answers, to be given to `heard`."""
        pipeline.hget(self.pool_bars, digest(pool))
        pipeline.hmget(self.bars, list(stored))
        pipeline.zmscore(self.wrong, [pair_name(wanted, other) for other in stored])

    def heard(
        self, pool_bar: bytes | None, bars: list[bytes | None], wrong: list[float | None]
    ) -> list[Evidence]:
        """The evidence for each stored entry that was asked about."""
        base = read_bar(pool_bar, self.build)
        return [
            Evidence(mark is not None, max(base, read_bar(bar, self.build)))
            for bar, mark in zip(bars, wrong, strict=True)
        ]

    def refuse(self, wanted: str, stored: str) -> None:
        """Never again serve one of these two requests with the other's answer."""
        with self.client.pipeline() as pipeline:
            pipeline.zadd(self.wrong, {pair_name(wanted, stored): time.time()})
            pipeline.zremrangebyrank(self.wrong, 0, -MOST_WRONG_PAIRS - 1)
            pipeline.execute()

    def raise_bar(self, fingerprint: str, bar: float) -> None:
        """From now on `fingerprint` is served only above `bar`."""
        self.client.hset(self.bars, fingerprint, written_bar(bar, self.build))

    def set_pool_bar(self, pool: str, bar: float | None) -> None:
        """Raise the bar of a whole pool, or take the raise back with None."""
        if bar is None:
            self.client.hdel(self.pool_bars, digest(pool))
        else:
            self.client.hset(self.pool_bars, digest(pool), written_bar(bar, self.build))

    def pool_bar(self, pool: str) -> float:
        """The raised bar of a pool; 0.0 without one."""
        written = cast("bytes | None", self.client.hget(self.pool_bars, digest(pool)))
        return read_bar(written, self.build)

    def begin_anew(self, pool: str | None) -> None:
        """Take back the raised bar of `pool`, or every pool's, with the judgements since."""
        every = judged_pools(self.client, self.prefix, MOST_JUDGED_POOLS) if pool is None else []
        with self.client.pipeline() as pipeline:
            if pool is None:
                pipeline.delete(self.pool_bars)
            else:
                pipeline.hdel(self.pool_bars, digest(pool))
            for one in every if pool is None else [pool]:
                pipeline.delete(window_key(self.prefix, one, self.build))
            pipeline.execute()

    def forget_entries(self, pipeline: Any, fingerprints: Sequence[str]) -> None:
        """Queue the removal of what is kept for single entries."""
        if fingerprints:
            pipeline.hdel(self.bars, *fingerprints)
            pipeline.zrem(self.hits, *fingerprints)

    def count(self, pipeline: Any, pool: str, counters: dict[str, float]) -> None:
        """Queue counters, for everybody and for the pool."""
        cache_uses.count(pipeline, self.prefix, pool, counters)
