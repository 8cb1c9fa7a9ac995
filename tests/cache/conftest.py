"""A real Redis with RediSearch, the real embedder, the real verifier."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis

from tasks.cache_policy import CachePolicy
from tasks.cache_rules import CacheRules
from workers.cache.cache import SemanticCache
from workers.cache.embedding import Embedder, load_embedder
from workers.cache.scratch_redis import scratch_redis
from workers.cache.verifier import OnnxVerifier, Verdict

_numbers = itertools.count()


@dataclass
class Believer:
    """A verifier that accepts everything: what it lets through, the partition must stop."""

    build: str = "believer"
    score: float = 1.0
    asked: list[tuple[str, str]] = field(default_factory=list)

    def judge(self, prompt: str, stored: str, bar: float) -> Verdict:
        self.asked.append((prompt, stored))
        return Verdict(self.score, None if bar <= self.score else "low_score")


@pytest.fixture(scope="session")
def cache_redis_url() -> Iterator[str]:
    with scratch_redis() as url:
        yield url


@pytest.fixture(scope="session")
def cache_redis(cache_redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(cache_redis_url) as client:
        yield client


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    return load_embedder()


@pytest.fixture(scope="session")
def verifier() -> OnnxVerifier:
    return OnnxVerifier()


@pytest.fixture(scope="session")
def believer() -> Believer:
    return Believer()


@pytest.fixture
def prefix() -> str:
    return f"test-{next(_numbers)}"


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def make_cache(
    cache_redis: redis.Redis, embedder: Embedder, prefix: str, events: list[str]
) -> Iterator[Callable[..., SemanticCache]]:
    made: list[SemanticCache] = []

    def make(verifier: Any = None, policy: CachePolicy | None = None, **rest: Any) -> SemanticCache:
        settings = {"prefix": prefix, "on_event": events.append} | rest
        cache = SemanticCache(
            cache_redis,
            embedder,
            verifier or Believer(),
            rules=CacheRules(policy or CachePolicy()),
            **settings,
        )
        made.append(cache)
        return cache

    yield make
    for name in {cache.index.name for cache in made}:
        if name.encode() in cache_redis.execute_command("FT._LIST"):
            cache_redis.execute_command("FT.DROPINDEX", name)
