"""What judging served answers has found, by pool: how it lies in Redis, and how to read it.

Workers write it (`workers/cache/shadow.py`, `workers/cache/evidence.py`). Scores and errors are a
verifier's own, so bars and judgements are kept with its build, and no other build heeds them.

<prefix>:verifier                the build in use
<prefix>:judged                  zset pool -> hits of it that were ever judged
<prefix>:shadow:<pool, build>    hash of the judgements since the pool's bar last moved
<prefix>:pool_verifier_bars      hash pool digest -> build and least verifier score in this pool
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import redis

from tasks.fingerprint import digest
from tasks.intervals import wilson

MONTH = 30 * 86_400  # an estimate to which nothing was added for so long is forgotten
MOST_JUDGED_POOLS = 10_000  # whose names are known
SHOWN_POOLS = 50


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
    bar: float  # least score of a semantic hit in this pool; 0.0 unless it was raised
    estimate: ErrorEstimate | None  # None: nothing was judged since the bar moved


def verifier_key(prefix: str) -> str:
    """Where the build of the verifier in use is written."""
    return f"{prefix}:verifier"


def pool_bars_key(prefix: str) -> str:
    """Where the raised bars of pools lie."""
    return f"{prefix}:pool_verifier_bars"


def window_key(prefix: str, pool: str, build: str) -> str:
    """Where the judgements of one pool under one verifier lie."""
    return f"{prefix}:shadow:{digest(pool, build)}"


def written_bar(bar: float, build: str) -> str:
    """A raised bar as it is kept."""
    return f"{build} {bar!r}"


def read_bar(written: bytes | None, build: str) -> float:
    """The bar, or 0.0 where there is none or another verifier's."""
    its_build, _, bar = (written or b"").decode().rpartition(" ")
    return float(bar) if bar and its_build == build else 0.0


def write_judgement(
    pipeline: Any, prefix: str, pool: str, build: str, *, right: bool, weight: float
) -> None:
    """Queue one judgement, of a hit that stands for `weight` hits."""
    key = window_key(prefix, pool, build)
    pipeline.hincrby(key, "judged", 1)
    pipeline.hincrbyfloat(key, "weight", weight)
    pipeline.hincrbyfloat(key, "wrong_weight", 0.0 if right else weight)
    pipeline.expire(key, MONTH)
    pipeline.zincrby(f"{prefix}:judged", 1, pool)
    pipeline.zremrangebyrank(f"{prefix}:judged", 0, -MOST_JUDGED_POOLS - 1)


def estimate_of(window: Mapping[bytes, bytes]) -> ErrorEstimate | None:
    """The error rate that judgements tell; None before anything was judged."""
    read = {name.decode(): float(value) for name, value in window.items()}
    judged = int(read.get("judged", 0))
    if judged == 0:
        return None
    rate = read["wrong_weight"] / read["weight"]
    low, high = wilson(rate * judged, judged)
    return ErrorEstimate(rate, low, high, judged)


def judged_pools(client: redis.Redis, prefix: str, most: int = SHOWN_POOLS) -> list[str]:
    """The pools that most hits were judged of. Raises redis.RedisError."""
    names = cast("list[bytes]", client.zrevrange(f"{prefix}:judged", 0, most - 1))
    return [name.decode() for name in names]


def read_judgements(client: redis.Redis, prefix: str, *pools: str) -> list[Judgements]:
    """Of each of `pools`, under the verifier in use. Raises redis.RedisError."""
    build = (cast("bytes | None", client.get(verifier_key(prefix))) or b"").decode()
    with client.pipeline(transaction=False) as pipe:
        for pool in pools:
            pipe.hgetall(window_key(prefix, pool, build))
            pipe.hget(pool_bars_key(prefix), digest(pool))
        found = pipe.execute()
    return [
        Judgements(pool, read_bar(bar, build), estimate_of(window))
        for pool, window, bar in zip(pools, found[::2], found[1::2], strict=True)
    ]
