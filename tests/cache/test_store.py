from __future__ import annotations

from collections.abc import Callable

import redis

from tasks.cache_policy import CachePolicy
from tasks.exact_cache import Answer
from tasks.fingerprint import tenant_pool
from tasks.inference import CacheOptions, InferenceSubmission
from workers.cache.cache import SemanticCache

MakeCache = Callable[..., SemanticCache]


def answer(text: str = "An answer.", cost: float = 0.01) -> Answer:
    return Answer(text, "openai", "gpt", cost=cost)


def fill(cache: SemanticCache, count: int, **values: float) -> None:
    for i in range(count):
        assert cache.cache_response(f"Tell me about topic {i}", answer(f"Topic {i}.", **values))


def name_of(cache: SemanticCache, prompt: str) -> str:
    return cache.read(InferenceSubmission(prompt=prompt), pool=tenant_pool("")).fingerprint


def documents(cache: SemanticCache, client: redis.Redis) -> int:
    return sum(1 for _ in client.scan_iter(f"{cache.index.document_prefix}*"))


def test_memory_stays_bounded_and_the_index_with_it(
    make_cache: MakeCache, cache_redis: redis.Redis
):
    cache = make_cache(max_bytes=40_000)
    fill(cache, 60)
    usage = cache.store.usage()
    assert usage.bytes <= 40_000
    assert usage.evicted == 60 - usage.entries > 0
    assert documents(cache, cache_redis) == usage.entries
    assert int(cache.index.info()["num_docs"]) == usage.entries


def test_the_answer_that_saves_least_goes_first(make_cache: MakeCache):
    cache = make_cache(max_bytes=40_000)
    cache.cache_response("Which star is nearest?", answer("Proxima.", cost=5.0))
    fill(cache, 60, cost=0.0001)
    assert cache.get_similar_cached_response("Which star is nearest?") is not None
    assert cache.get_similar_cached_response("Tell me about topic 0") is None


def test_an_answer_that_is_used_stays_longer_than_its_equals(make_cache: MakeCache):
    cache = make_cache(max_bytes=40_000)
    fill(cache, 1)
    for _ in range(5):
        assert cache.get_similar_cached_response("Tell me about topic 0") is not None
        cache.uses.flush()  # otherwise written within a second
    for i in range(30):
        cache.cache_response(f"Describe item {i}", answer())
    assert cache.store.usage().evicted > 0
    assert cache.get_similar_cached_response("Tell me about topic 0") is not None


def test_an_answer_larger_than_the_bound_is_refused(make_cache: MakeCache):
    cache = make_cache(max_bytes=1_000)
    assert not cache.cache_response("Which star is nearest?", answer())
    assert cache.store.usage().entries == 0


def test_storing_again_counts_once(make_cache: MakeCache):
    cache = make_cache()
    fill(cache, 1)
    once = cache.store.usage()
    fill(cache, 1)
    again = cache.store.usage()
    assert again.entries == once.entries == 1
    assert abs(again.bytes - once.bytes) < 10  # the time in it is a digit longer or shorter


def test_the_time_to_live_is_absolute(make_cache: MakeCache, cache_redis: redis.Redis):
    cache = make_cache(policy=CachePolicy(ttl=100))
    fill(cache, 1)
    name = name_of(cache, "Tell me about topic 0")
    cache_redis.pexpire(cache.exact.entry_key(name), 50_000)
    assert cache.get_similar_cached_response("Tell me about topic 0") is not None
    assert cache_redis.pttl(cache.exact.entry_key(name)) <= 50_000


def test_sliding_starts_the_time_anew(make_cache: MakeCache, cache_redis: redis.Redis):
    cache = make_cache(policy=CachePolicy(ttl=100, sliding=True))
    fill(cache, 1)
    name = name_of(cache, "Tell me about topic 0")
    cache_redis.pexpire(cache.exact.entry_key(name), 50_000)
    assert cache.get_similar_cached_response("Tell me about topic 0") is not None
    cache.uses.flush()
    assert cache_redis.pttl(cache.exact.entry_key(name)) > 90_000
    assert cache_redis.pttl(cache.index.document_key(name)) > 90_000


def test_expired_entries_leave_the_records(make_cache: MakeCache, cache_redis: redis.Redis):
    cache = make_cache()
    fill(cache, 3)
    names = cache_redis.zrange(cache.store.expiry, 0, -1)
    cache_redis.zadd(cache.store.expiry, dict.fromkeys(names, 1.0))
    cache.cache_response("Which star is nearest?", answer())
    usage = cache.store.usage()
    assert (usage.entries, usage.expired) == (1, 3)


def test_entries_and_documents_end_by_themselves(make_cache: MakeCache, cache_redis: redis.Redis):
    cache = make_cache()
    fill(cache, 2)
    cache.get_similar_cached_response("Tell me about topic 1")
    entry = f"{cache.exact.prefix}:entry:*"
    for pattern in (entry, f"{cache.index.document_prefix}*"):
        assert all(cache_redis.pttl(key) > 0 for key in cache_redis.scan_iter(pattern))


def test_invalidation_by_pattern_model_pool_tag_and_age(make_cache: MakeCache):
    cache = make_cache()
    other = tenant_pool("other")
    tagged = InferenceSubmission(prompt="Who was Nero?", cache=CacheOptions(tags=["people", "old"]))
    cache.cache_response("Where is Rome?", answer())
    cache.cache_response("Where is Oslo?", Answer("North.", "p", "claude"), pool=other)
    cache.cache_response("", answer(), request=tagged)
    assert cache.invalidate_cache("*paris*") == 0
    assert cache.invalidate_cache(older_than=1000) == 0
    assert cache.invalidate_cache("where*", pool=tenant_pool("")) == 1
    assert cache.invalidate_cache(model="claude") == 1
    assert cache.invalidate_cache(tag="people") == 1
    assert cache.store.usage().entries == 0
    assert cache.store.usage().bytes == 0


def test_invalidation_of_everything_is_instant(make_cache: MakeCache):
    cache = make_cache()
    fill(cache, 3)
    cache.cache_response("Where is Rome?", answer(), pool=tenant_pool("other"))
    assert cache.invalidate_cache(pool=tenant_pool("other")) == -1
    assert cache.get_similar_cached_response("Where is Rome?", pool=tenant_pool("other")) is None
    assert cache.get_similar_cached_response("Tell me about topic 1") is not None
    assert cache.invalidate_cache() == -1
    assert cache.get_similar_cached_response("Tell me about topic 1") is None
    assert cache.get_similar_cached_response("Tell me of topic 1") is None
    fill(cache, 1)
    assert cache.get_similar_cached_response("Tell me about topic 0") is not None


def test_feedback_removes_the_entry_and_remembers_the_pair(make_cache: MakeCache):
    cache = make_cache()
    cache.cache_response("How do I cancel my plan?", answer())
    asked = InferenceSubmission(prompt="How can I cancel my plan")
    hit = cache.get_similar_cached_response("How can I cancel my plan")
    assert hit is not None
    assert not cache.answer_was_wrong(asked, hit.fingerprint, pool=tenant_pool("stranger"))
    assert cache.answer_was_wrong(asked, hit.fingerprint, pool=tenant_pool(""))
    assert cache.get_similar_cached_response("How do I cancel my plan?") is None
    cache.cache_response("How do I cancel my plan?", answer())
    assert cache.get_similar_cached_response("How can I cancel my plan") is None
    assert cache.get_cache_stats()["reported_wrong"] == 1


def test_statistics_of_everybody_and_of_one_pool(make_cache: MakeCache):
    cache = make_cache()
    mine = tenant_pool("mine")
    cache.cache_response("Where is Rome?", answer(cost=0.5), pool=mine)
    for prompt in ("Where is Rome?", "where is Rome", "Who was Nero?"):
        cache.get_similar_cached_response(prompt, pool=mine)
    cache.get_similar_cached_response("Where is Rome?", pool=tenant_pool("other"))
    everybody, own = cache.get_cache_stats(), cache.get_cache_stats(mine)
    assert (everybody["lookups"], own["lookups"]) == (4, 3)
    assert own["hits"] == {"exact": 2, "semantic": 0}
    assert own["saved_cost"] == 1.0
    assert everybody["memory"]["entries"] == 1
    assert everybody["top_entries"][0]["hits"] == 2
    assert "memory" not in own
