"""What the cache did, as the API, the command line and Prometheus show it."""

from __future__ import annotations

import pytest
import redis
from prometheus_client import CollectorRegistry, generate_latest

from tasks.cache_judgements import (
    pool_bars_key,
    read_judgements,
    verifier_key,
    write_judgement,
    written_bar,
)
from tasks.cache_stats import pool_report, whole_report
from tasks.exact_cache import Answer
from tasks.fingerprint import digest, tenant_pool
from tasks.inference import InferenceSubmission
from tests.cache.conftest import Believer
from tests.observe.conftest import read_samples
from workers.cache.cache import SemanticCache
from workers.cache.embedding import Embedder
from workers.cache.judgement_metrics import JudgementCollector
from workers.cache.shadow import ShadowJudge, ShadowPolicy

POOL = tenant_pool("acme")
OTHER = tenant_pool("other")


def a_cache(
    client: redis.Redis, embedder: Embedder, prefix: str, build: str = "one"
) -> SemanticCache:
    return SemanticCache(client, embedder, Believer(build, score=0.6), prefix=prefix)


@pytest.fixture
def cache(cache_redis: redis.Redis, embedder: Embedder, prefix: str) -> SemanticCache:
    return a_cache(cache_redis, embedder, prefix)


def judge_one(cache: SemanticCache, client: redis.Redis, pool: str, fresh: str) -> None:
    """A rewording is served, and the provider says `fresh` to it."""
    cache.cache_response("Why is the sky blue?", Answer("Scattering.", "p", "m"), pool=pool)
    lookup = cache.read(InferenceSubmission(prompt=f"Why is the sky {fresh} blue?"), pool=pool)
    hit = cache.look_up([lookup])[0]
    assert hit is not None
    policy = ShadowPolicy(rate=1.0, least_judged=3)
    judging = ShadowJudge(cache, client, cache.exact.prefix, policy=policy, compare=str.__eq__)
    judging.judge(hit, lookup, lambda: Answer(fresh, "p", "m"))


def test_the_estimate_of_errors_and_the_bar_are_told_by_pool(
    cache: SemanticCache, cache_redis: redis.Redis, prefix: str
) -> None:
    before = cache.get_cache_stats(POOL)
    assert (before["error_estimate"], before["verifier_bar"]) == (None, 0.46)
    judge_one(cache, cache_redis, POOL, "so")
    judge_one(cache, cache_redis, OTHER, "Scattering.")
    told = pool_report(cache_redis, prefix, POOL, 0.46, prompts=True)
    assert told["error_estimate"]["judged"] == 1
    assert told["error_estimate"]["rate"] == 1.0
    assert (
        pool_report(cache_redis, prefix, OTHER, 0.46, prompts=True)["error_estimate"]["rate"] == 0.0
    )
    for word in ("very", "that"):
        judge_one(cache, cache_redis, POOL, word)
    raised = pool_report(
        cache_redis, prefix, POOL, 0.46, prompts=True
    )  # the third wrong one was enough
    assert (raised["error_estimate"], raised["verifier_bar"]) == (None, pytest.approx(0.56))
    assert raised["shadow"] == {"judged": 3, "wrong": 3}
    everyone = whole_report(cache_redis, prefix)["judged_pools"]
    assert [(one["pool"], one["bar"]) for one in everyone] == [
        (POOL, pytest.approx(0.56)),
        (OTHER, 0.0),
    ]


def test_who_forgets_everything_begins_anew(
    cache: SemanticCache, cache_redis: redis.Redis, prefix: str
) -> None:
    def bars() -> list[float]:
        return [
            pool_report(cache_redis, prefix, p, 0.46, prompts=False)["verifier_bar"]
            for p in (POOL, OTHER)
        ]

    for pool in (POOL, OTHER):
        for word in ("so", "very", "that"):
            judge_one(cache, cache_redis, pool, word)
    assert bars() == [pytest.approx(0.56), pytest.approx(0.56)]
    cache.invalidate_cache("*sky*", pool=POOL)
    assert bars() == [pytest.approx(0.56), pytest.approx(0.56)]
    cache.invalidate_cache(pool=POOL)
    assert bars() == [0.46, pytest.approx(0.56)]
    assert cache.evidence.pool_bar(POOL) == 0.0
    cache.invalidate_cache()
    assert bars() == [0.46, 0.46]
    assert cache.evidence.pool_bar(OTHER) == 0.0


def test_judgements_of_another_verifier_are_not_told(
    cache: SemanticCache, cache_redis: redis.Redis, embedder: Embedder, prefix: str
) -> None:
    def told() -> bool:
        return read_judgements(cache_redis, prefix, POOL)[0].estimate is not None

    judge_one(cache, cache_redis, POOL, "so")
    assert told()
    after = a_cache(cache_redis, embedder, prefix, "two")
    after.get_similar_cached_response("Why is the sky blue?", pool=POOL)  # by exact text
    assert told()
    after.get_similar_cached_response("Who was Nero?", pool=POOL)
    assert not told()


def test_the_most_used_entries_of_a_pool_are_its_own(
    cache: SemanticCache, cache_redis: redis.Redis, prefix: str
) -> None:
    for pool, times in ((POOL, 2), (OTHER, 3)):
        for prompt in ("Where is Rome?", f"Who was {pool}?"):
            cache.cache_response(prompt, Answer("A.", "p", "m"), pool=pool)
            for _ in range(times):
                cache.get_similar_cached_response(prompt, pool=pool)
            times -= 1
    top = cache.get_cache_stats(POOL)["top_entries"]
    assert [(one["prompt"], one["hits"]) for one in top] == [
        ("Where is Rome?", 2),
        (f"Who was {POOL}?", 1),
    ]
    hidden = pool_report(cache_redis, prefix, POOL, 0.46, prompts=False)["top_entries"]
    assert hidden == [{"entry": one["entry"], "model": "m", "hits": one["hits"]} for one in top]
    cache.invalidate_cache(pool=POOL)
    assert cache.get_cache_stats(POOL)["top_entries"] == []
    whole = cache.get_cache_stats()
    assert [one["hits"] for one in whole["top_entries"]] == [3, 2, 2, 1]
    assert all("prompt" not in one for one in whole["top_entries"])


def scraped(collector: JudgementCollector) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    registry = CollectorRegistry()
    registry.register(collector)
    return read_samples(generate_latest(registry).decode())


def test_the_metrics_are_those_of_the_verifier_in_use(
    cache_redis: redis.Redis, prefix: str
) -> None:
    cache_redis.set(verifier_key(prefix), "build")
    with cache_redis.pipeline() as pipe:
        for right in (True, True, False, True):
            write_judgement(pipe, prefix, POOL, "build", right=right, weight=2.0)
        write_judgement(pipe, prefix, OTHER, "another", right=False, weight=1.0)
        for pool, build in ((POOL, "build"), (OTHER, "another")):
            pipe.hset(pool_bars_key(prefix), digest(pool), written_bar(0.56, build))
        pipe.execute()
    assert scraped(JudgementCollector(cache_redis, prefix)) == {
        ("inferenceflow_cache_error_rate", (("pool", POOL),)): 0.25,
        ("inferenceflow_cache_verifier_bar", (("pool", POOL),)): 0.56,
        ("inferenceflow_cache_verifier_bar", (("pool", OTHER),)): 0.0,
    }


def test_a_scrape_goes_on_without_the_caches_redis() -> None:
    gone = redis.Redis(port=1)
    assert scraped(JudgementCollector(gone, "cache")) == {}
