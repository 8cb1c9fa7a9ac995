from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from tasks.cache_hit import CacheHit
from tasks.cache_policy import CachePolicy, Plan
from tasks.exact_cache import Answer
from tasks.fingerprint import scope_of, tenant_pool
from tasks.inference import InferenceSubmission
from tests.cache.conftest import Believer
from workers.cache.cache import SemanticCache
from workers.cache.embedding import Embedder
from workers.cache.hit import Lookup
from workers.cache.shadow import ShadowJudge, ShadowPolicy, same_answer

POOL = tenant_pool("")
WANTED = Lookup(
    text="Was it so?",
    scope=scope_of(InferenceSubmission(prompt="Was it so?"), pool=POOL),
    plan=Plan(exact=True, semantic=True, store=True, threshold=0.8, ttl=60.0),
    policy=CachePolicy(),
)
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
        ttl=60.0,
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


def test_nothing_is_sampled_at_a_rate_of_zero(
    make_cache: MakeCache, cache_redis: redis.Redis, prefix: str
):
    judging = judge(make_cache(), cache_redis, prefix, rate=0.0)
    assert not judging.wants(hit(0.6), POOL)
    assert not judging.wants(hit(0.99), POOL)


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
    assert judging.judge(hit(), WANTED, lambda: Answer("Yes.", "p", "m"))
    assert not judging.judge(hit(), WANTED, lambda: Answer("No.", "p", "m"))
    with cache_redis.pipeline() as pipeline:
        cache.evidence.ask(pipeline, POOL, WANTED.fingerprint, ["served"])
        (against,) = cache.evidence.heard(*pipeline.execute())
    assert against.wrong
    assert against.bar == 0.95
    assert cache.get_cache_stats()["shadow"] == {"judged": 2, "wrong": 1}


def test_the_answer_that_was_paid_for_is_kept(
    make_cache: MakeCache, cache_redis: redis.Redis, prefix: str
):
    cache = make_cache()
    judging = judge(cache, cache_redis, prefix)
    judging.judge(hit(), WANTED, lambda: Answer("No.", "p", "m"))
    found = cache.look_up([WANTED])[0]
    assert found is not None
    assert (found.layer, found.answer.text) == ("exact", "No.")


def test_what_is_invalidated_while_the_provider_works_stays_invalidated(
    make_cache: MakeCache, cache_redis: redis.Redis, prefix: str
):
    cache = make_cache()

    def ask() -> Answer:
        cache.invalidate_cache(pool=POOL)
        return Answer("No.", "p", "m")

    judge(cache, cache_redis, prefix).judge(hit(), WANTED, ask)
    assert cache.look_up([WANTED]) == [None]


def test_an_answer_that_was_cut_off_is_judged_and_not_kept(
    make_cache: MakeCache, cache_redis: redis.Redis, prefix: str
):
    cache = make_cache()
    cut = Answer("No.", "p", "m", finish_reason="length")
    assert not judge(cache, cache_redis, prefix).judge(hit(), WANTED, lambda: cut)
    assert cache.look_up([WANTED]) == [None]


def test_too_many_wrong_answers_raise_the_bar_of_that_pool_only(
    make_cache: MakeCache, cache_redis: redis.Redis, prefix: str
):
    cache = make_cache()
    judging = judge(cache, cache_redis, prefix, least_judged=5)
    for _ in range(5):
        judging.judge(hit(), WANTED, lambda: Answer("No.", "p", "m"))
    assert cache.evidence.pool_bar(POOL) == pytest.approx(cache.rules.base.verifier_bar + 0.1)
    assert cache.evidence.pool_bar(tenant_pool("other")) == 0.0
    assert judging.estimate(POOL) is None


def test_a_pool_that_is_right_for_long_gets_its_bar_back(
    make_cache: MakeCache, cache_redis: redis.Redis, prefix: str
):
    cache = make_cache()
    judging = judge(cache, cache_redis, prefix, least_judged=5, max_error_rate=0.5)
    cache.evidence.set_pool_bar(POOL, cache.rules.base.verifier_bar + 0.1)
    for _ in range(8):
        judging.judge(hit(), WANTED, lambda: Answer("Yes.", "p", "m"))
    assert cache.evidence.pool_bar(POOL) == 0.0


def test_another_verifier_starts_without_the_bars_and_judgements_of_the_one_before(
    make_cache: MakeCache, cache_redis: redis.Redis, prefix: str
):
    before, after = make_cache(Believer("one")), make_cache(Believer("two"))
    judging = judge(before, cache_redis, prefix, least_judged=5)
    for _ in range(6):
        judging.judge(hit(), WANTED, lambda: Answer("No.", "p", "m"))
    assert before.evidence.pool_bar(POOL) > 0.0
    assert judging.estimate(POOL) is not None
    assert after.evidence.pool_bar(POOL) == 0.0
    assert judge(after, cache_redis, prefix).estimate(POOL) is None
    with cache_redis.pipeline() as pipeline:
        after.evidence.ask(pipeline, POOL, WANTED.fingerprint, ["served"])
        (against,) = after.evidence.heard(*pipeline.execute())
    assert against.bar == 0.0
    assert against.wrong  # that two answers differ is true under any verifier


def test_the_estimate_weighs_hits_by_how_rarely_they_are_drawn(
    make_cache: MakeCache, cache_redis: redis.Redis, prefix: str
):
    judging = judge(make_cache(), cache_redis, prefix, rate=0.5, clear_part=0.2)
    judging.judge(hit(0.6), WANTED, lambda: Answer("No.", "p", "m"))  # stands for 2
    judging.judge(hit(0.99), WANTED, lambda: Answer("Yes.", "p", "m"))  # stands for 10
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
        judging.judge(hit(), WANTED, fail)
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
