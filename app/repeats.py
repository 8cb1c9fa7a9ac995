"""Exact repeats, answered by the API itself: no queue and no worker.

Costs one Redis round trip (MGET on the cache's Redis) for a request that the cache's policy lets be
looked up, and none for others. Hits are counted in memory and written once a second.
"""

from __future__ import annotations

import time

import redis

from tasks.cache_hit import CacheHit, hit_of
from tasks.cache_policy import plan
from tasks.cache_rules import CacheRules
from tasks.cache_uses import CacheUses
from tasks.exact_cache import ExactCache
from tasks.inference import InferenceSubmission

PAUSE_SECONDS = 2.0  # without the cache, after its Redis did not answer


class Repeats:
    """Looks for stored answers to exactly the same request, of the same pool."""

    def __init__(self, client: redis.Redis, prefix: str, rules: CacheRules) -> None:
        self.rules = rules
        self._exact = ExactCache(client, prefix, on_failure=self._pause)
        self._away_until = 0.0
        self.uses = CacheUses(client, prefix)

    def find(
        self, submission: InferenceSubmission, text: str, name: str, pool: str
    ) -> CacheHit | None:
        """The stored answer to `submission`, whose last user message is `text` and whose
        fingerprint in `pool` is `name`. None where there is none, or where none may be served.
        """
        if time.monotonic() < self._away_until:
            return None
        if not plan(submission, text, self.rules.policy(submission.model_preference)).exact:
            return None
        entry = self._exact.get(name, pool)
        return None if entry is None else hit_of(entry, "exact", 1.0, None)

    def count(self, submission: InferenceSubmission, pool: str, hit: CacheHit) -> None:
        """Note that `hit` was served."""
        slides = self.rules.policy(submission.model_preference).sliding
        self.uses.add(pool, {}, hit, slides=slides)

    def _pause(self, operation: str) -> None:
        if operation != "decode":
            self._away_until = time.monotonic() + PAUSE_SECONDS
