"""Judging served answers off the request path, and what follows from it.

A sample of semantic hits, mostly of the grey zone, is asked of the provider anyway. An answer that
differs demotes its entry: the pair is never served again and the entry needs a higher score. The
share of wrong answers is estimated per pool; above `max_error_rate` the pool's bar goes up.

The provider's answer was paid for, so it is kept as that of the prompt itself. A wording that comes
back often is soon drawn, and from then on it is an exact hit and costs no second call.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import redis

from tasks.cache_hit import CacheHit
from tasks.cache_judgements import ErrorEstimate, estimate_of, window_key, write_judgement
from tasks.exact_cache import Answer
from tasks.fingerprint import digest
from workers.cache.cache import SemanticCache
from workers.cache.embedding import Embedder
from workers.cache.hit import Lookup
from workers.cache.slots import read_slots

HOUR = 3_600
_POLARITY = re.compile(r"^\W*(yes|no|true|false|correct|incorrect)\b", re.IGNORECASE)


@dataclass(frozen=True)
class ShadowPolicy:
    """How much is judged, and what is tolerated."""

    rate: float = 0.05  # share of grey-zone hits that are judged
    clear_part: float = 0.1  # of that share, for the other semantic hits
    grey_below: float = 0.9  # verifier score under which a hit is in the grey zone
    calls_per_hour: int = 60  # provider calls for judging, per pool
    max_error_rate: float = 0.02  # wrong answers per semantic hit
    least_judged: int = 20  # fewer judgements say nothing about a pool
    step: float = 0.1  # by which a pool's bar moves
    demoted_bar: float = 0.95  # least score for an entry that was wrong once
    agreement: float = 0.8  # least cosine of two answers that say the same


def same_answer(first: str, second: str, embedder: Embedder, agreement: float) -> bool:
    """Whether two answers say the same, as far as a machine can tell.

    A yes against a no and other hard facts are a difference; beyond that, meaning is measured by
    the cosine of the beginnings (the embedder reads 256 tokens). It errs to "different".
    """
    if first.split() == second.split():
        return True
    said = [_POLARITY.match(text) for text in (first, second)]
    if said[0] and said[1] and said[0][1].lower() != said[1][1].lower():
        return False
    numbers = [read_slots(text).numbers for text in (first, second)]
    short = max(len(first), len(second)) < 200
    if short and numbers[0] != numbers[1]:
        return False
    one, two = embedder.embed([first, second])
    return float(one @ two) >= agreement


class ShadowJudge:
    """Decides what to judge, judges it, and draws the consequences."""

    def __init__(
        self,
        cache: SemanticCache,
        client: redis.Redis,
        prefix: str = "cache",
        *,
        policy: ShadowPolicy | None = None,
        draw: Callable[[], float] = random.random,
        compare: Callable[[str, str], bool] | None = None,
    ) -> None:
        self.policy = policy or ShadowPolicy()
        self._cache, self._client, self._prefix, self._draw = cache, client, prefix, draw
        self._compare = compare or (
            lambda first, second: same_answer(first, second, cache.embedder, self.policy.agreement)
        )

    def wants(self, hit: CacheHit, pool: str) -> bool:
        """Whether this hit should be judged; True takes one call from the pool's hourly budget."""
        if self._draw() >= self._rate(hit):
            return False
        key = f"{self._prefix}:shadow_budget:{digest(pool)}:{int(time.time()) // HOUR}"
        with self._client.pipeline() as pipeline:
            pipeline.incr(key)
            pipeline.expire(key, HOUR)
            used, _ = pipeline.execute()
        return int(used) <= self.policy.calls_per_hour

    def _rate(self, hit: CacheHit) -> float:
        if hit.layer != "semantic" or hit.verifier_score is None:
            return 0.0
        grey = hit.verifier_score < self.policy.grey_below
        return self.policy.rate * (1.0 if grey else self.policy.clear_part)

    def judge(self, hit: CacheHit, lookup: Lookup, ask: Callable[[], Answer]) -> bool:
        """Ask the provider, compare, record, keep; returns whether the served answer was right.

        `lookup` is the request that was served `hit`. Errors of `ask` pass through and nothing is
        recorded.
        """
        pool = lookup.scope.pool
        generations = self._cache.store.generations(pool)
        answer = ask()
        right = self._compare(hit.answer.text, answer.text)
        # A hit judged with probability p stands for 1/p hits (Horvitz and Thompson 1952).
        weight = 1.0 / max(self._rate(hit), 1e-6)
        build = self._cache.evidence.build
        with self._client.pipeline() as pipeline:
            write_judgement(pipeline, self._prefix, pool, build, right=right, weight=weight)
            self._cache.evidence.count(
                pipeline, pool, {"shadow_judged": 1.0, "shadow_wrong": 0.0 if right else 1.0}
            )
            pipeline.execute()
        if not right:
            self._cache.evidence.refuse(lookup.fingerprint, hit.fingerprint)
            self._cache.evidence.raise_bar(hit.fingerprint, self.policy.demoted_bar)
        self._adjust(pool)
        self._cache.store_answer(lookup, answer, generations=generations)
        return right

    def estimate(self, pool: str) -> ErrorEstimate | None:
        """The error rate of a pool; None before anything was judged."""
        window = cast("dict[bytes, bytes]", self._client.hgetall(self._window(pool)))
        return estimate_of(window)

    def _adjust(self, pool: str) -> None:
        """Raise the pool's bar when it is surely too wrong; give it back when it is surely fine."""
        estimate = self.estimate(pool)
        if estimate is None or estimate.judged < self.policy.least_judged:
            return
        base = self._cache.rules.base.verifier_bar
        bar = max(base, self._cache.evidence.pool_bar(pool))
        if estimate.low > self.policy.max_error_rate:
            # At 1.0 nothing is served semantically: the last step is off.
            self._cache.evidence.set_pool_bar(pool, min(1.0, bar + self.policy.step))
        elif estimate.high < self.policy.max_error_rate and bar > base:
            lowered = round(bar - self.policy.step, 6)  # 0.46 + 0.1 - 0.1 is above 0.46
            self._cache.evidence.set_pool_bar(pool, lowered if lowered > base else None)
        else:
            return
        self._client.delete(self._window(pool))

    def _window(self, pool: str) -> str:
        return window_key(self._prefix, pool, self._cache.evidence.build)
