from __future__ import annotations

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from tasks.exact_cache import Answer, Entry, ExactCache, decode_entry, encode_entry
from tasks.inference import Usage

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=2000)


def entry(text: str = "An answer.", **values: object) -> Entry:
    answer = Answer(text, "openai", "gpt", usage=Usage(input_tokens=3), cost=0.01, latency=1.5)
    base = Entry("f", "tenant:a", "s", "Why?", answer, created=100.0, ttl=60.0, tags=("faq",))
    return Entry(**{**base.__dict__, **values})  # type: ignore[arg-type]


@given(TEXT, TEXT)
def test_an_entry_comes_back_as_it_was(text: str, prompt: str):
    stored = entry(text, prompt=prompt)
    assert decode_entry(encode_entry(stored)) == stored


def test_a_long_entry_is_compressed_and_a_short_one_is_not():
    assert encode_entry(entry("short"))[:1] == b"j"
    data = encode_entry(entry("long " * 1000))
    assert data[:1] == b"z"
    assert len(data) < 1000


@pytest.mark.parametrize(
    "data", [b"", b"zgarbage", b"j{", b"j[]", b'j{"answer":{}}', b"j\x80\x04."]
)
def test_a_damaged_entry_is_an_error_and_never_code(data: bytes):
    with pytest.raises(ValueError, match=r"."):
        decode_entry(data)


def test_age_counts_from_the_answer():
    assert entry().age(now=160.0) == 60.0


def test_lookup_takes_one_round_trip_and_reads_generations(cache_redis: redis.Redis, prefix: str):
    cache = ExactCache(cache_redis, prefix)
    cache_redis.set(cache.entry_key("f"), encode_entry(entry()))
    before = cache_redis.info("stats")["total_commands_processed"]
    found = cache.get("f", "tenant:a")
    after = cache_redis.info("stats")["total_commands_processed"]
    assert after - before == 2  # the MGET, and the second INFO itself
    assert found is not None
    assert found.answer.text == "An answer."
    cache_redis.incr(f"{prefix}:generation")
    assert cache.get("f", "tenant:a") is None


def test_a_pool_generation_voids_only_that_pool(cache_redis: redis.Redis, prefix: str):
    cache = ExactCache(cache_redis, prefix)
    cache_redis.set(cache.entry_key("f"), encode_entry(entry()))
    cache_redis.incr(cache.generation_keys("tenant:b")[1])
    assert cache.get("f", "tenant:a") is not None
    cache_redis.incr(cache.generation_keys("tenant:a")[1])
    assert cache.get("f", "tenant:a") is None


def test_damaged_data_is_a_counted_miss(cache_redis: redis.Redis, prefix: str):
    failures: list[str] = []
    cache = ExactCache(cache_redis, prefix, on_failure=failures.append)
    cache_redis.set(cache.entry_key("f"), b"zgarbage")
    assert cache.get("f", "tenant:a") is None
    assert failures == ["decode"]


def test_without_redis_every_lookup_is_a_counted_miss():
    failures: list[str] = []
    with redis.Redis(port=1, socket_connect_timeout=0.2) as client:
        cache = ExactCache(client, on_failure=failures.append)
        assert cache.get_many(["f", "g"], "tenant:a") == [None, None]
    assert failures == ["exact_get"]
