from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from tasks.cache_hit import CacheHit
from tasks.exact_cache import Answer
from tasks.fingerprint import tenant_pool
from tests.cache.conftest import Believer
from workers.cache.cache import SemanticCache
from workers.cache.embedding import Embedder
from workers.cache.shadow import ShadowJudge, ShadowPolicy, same_answer

POOL = tenant_pool("")
MakeCache = Callable[..., SemanticCache]


def hit(score: float | None = 0.6, layer: str = "semantic") -> CacheHit:
    return CacheHit(
        answer=Answer("Yes.", "p", "m"),
        layer=layer,  # type: ignore[arg-type]
        fingerprint="served",
        similarity=0.9,
        verifier_score=score,
        age=1.0,
        saved_cost=0.0,
        saved_seconds=0.0,
        prompt="Is it so?",
    )


def judge(
    cache: SemanticCache, client: redis.Redis, prefix: str, draw: float = 0.0, **policy: float
):
    return ShadowJudge(
        cache,
        client,
        prefix,
        policy=ShadowPolicy(**policy),
        draw=lambda: draw,  # type: ignore[arg-type]
    )


def test_the_grey_zone_is_sampled_more_than_clear_hits(
    make_cache: MakeCache, cache_redis: redis.Redis, prefix: str
):
    judging = judge(make_cache(), cache_redis, prefix, draw=0.02)
    assert judging.wants(hit(0.6), POOL)
    assert not judging.wants(hit(0.99), POOL)
    assert not judging.wants(hit(None, "exact"), POOL)


def test_the_budget_of_an_hour_is_kept(
    make_cache: MakeCache, cache_redis: redis.Redis, prefix: str
):
    judging = judge(make_cache(), cache_redis, prefix, calls_per_hour=2)
    assert [judging.wants(hit(), POOL) for _ in range(4)] == [True, True, False, False]
    assert judging.wants(hit(), tenant_pool("other"))


def test_a_wrong_answer_demotes_its_entry(
    make_cache: MakeCache, cache_redis: redis.Redis, prefix: str
):
    cache = make_cache()
    judging = judge(cache, cache_redis, prefix)
    assert judging.judge(hit(), "wanted", POOL, lambda: Answer("Yes.", "p", "m"))
    assert not judging.judge(hit(), "wanted", POOL, lambda: Answer("No.", "p", "m"))
    with cache_redis.pipeline() as pipeline:
        cache.evidence.ask(pipeline, POOL, "wanted", ["served"])
        (against,) = cache.evidence.heard(*pipeline.execute())
    assert against.wrong
    assert against.bar == 0.95
    assert cache.get_cache_stats()["shadow"] == {"judged": 2, "wrong": 1}


def test_too_many_wrong_answers_raise_the_bar_of_that_pool_only(
    make_cache: MakeCache, cache_redis: redis.Redis, prefix: str
):
    cache = make_cache()
    judging = judge(cache, cache_redis, prefix, least_judged=5)
    for _ in range(5):
        judging.judge(hit(), "wanted", POOL, lambda: Answer("No.", "p", "m"))
    assert cache.evidence.pool_bar(POOL) == pytest.approx(cache.policy.verifier_bar + 0.1)
    assert cache.evidence.pool_bar(tenant_pool("other")) == 0.0
    assert judging.estimate(POOL) is None


def test_a_pool_that_is_right_for_long_gets_its_bar_back(
    make_cache: MakeCache, cache_redis: redis.Redis, prefix: str
):
    cache = make_cache()
    judging = judge(cache, cache_redis, prefix, least_judged=5, max_error_rate=0.5)
    cache.evidence.set_pool_bar(POOL, cache.policy.verifier_bar + 0.1)
    for _ in range(8):
        judging.judge(hit(), "wanted", POOL, lambda: Answer("Yes.", "p", "m"))
    assert cache.evidence.pool_bar(POOL) == 0.0


def test_another_verifier_starts_without_the_bars_and_judgements_of_the_one_before(
    make_cache: MakeCache, cache_redis: redis.Redis, prefix: str
):
    before, after = make_cache(Believer("one")), make_cache(Believer("two"))
    judging = judge(before, cache_redis, prefix, least_judged=5)
    for _ in range(6):
        judging.judge(hit(), "wanted", POOL, lambda: Answer("No.", "p", "m"))
    assert before.evidence.pool_bar(POOL) > 0.0
    assert judging.estimate(POOL) is not None
    assert after.evidence.pool_bar(POOL) == 0.0
    assert judge(after, cache_redis, prefix).estimate(POOL) is None
    with cache_redis.pipeline() as pipeline:
        after.evidence.ask(pipeline, POOL, "wanted", ["served"])
        (against,) = after.evidence.heard(*pipeline.execute())
    assert against.bar == 0.0
    assert against.wrong  # that two answers differ is true under any verifier


def test_the_estimate_weighs_hits_by_how_rarely_they_are_drawn(
    make_cache: MakeCache, cache_redis: redis.Redis, prefix: str
):
    judging = judge(make_cache(), cache_redis, prefix, rate=0.5, clear_rate=0.1)
    judging.judge(hit(0.6), "wanted", POOL, lambda: Answer("No.", "p", "m"))  # stands for 2
    judging.judge(hit(0.99), "wanted", POOL, lambda: Answer("Yes.", "p", "m"))  # stands for 10
    estimate = judging.estimate(POOL)
    assert estimate is not None
    assert estimate.rate == pytest.approx(2 / 12)
    assert estimate.low < estimate.rate < estimate.high


def test_an_error_of_the_provider_records_nothing(
    make_cache: MakeCache, cache_redis: redis.Redis, prefix: str
):
    judging = judge(make_cache(), cache_redis, prefix)

    def fail() -> Answer:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        judging.judge(hit(), "wanted", POOL, fail)
    assert judging.estimate(POOL) is None


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("It is blue.", "It  is blue.", True),
        ("Yes, it is safe.", "No, it is not safe.", False),
        ("It takes 3 days.", "It takes 5 days.", False),
        ("The capital of France is Paris.", "Paris is the capital of France.", True),
        ("The capital of France is Paris.", "Mix the flour with the eggs.", False),
    ],
)
def test_comparing_two_answers(embedder: Embedder, first: str, second: str, same: bool):
    assert same_answer(first, second, embedder, 0.8) is same
