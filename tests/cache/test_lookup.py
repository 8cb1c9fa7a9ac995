from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.cache_policy import CachePolicy, plan
from tasks.exact_cache import Answer
from tasks.fingerprint import Scope, shared_pool, tenant_pool
from tasks.inference import InferenceRequest, InferenceSubmission, Message
from workers.cache.cache import SemanticCache
from workers.cache.embedding import Embedder
from workers.cache.hit import Lookup
from workers.cache.semantic import partition_of
from workers.cache.verifier import Verdict, Verifier

ANSWER = Answer("Rayleigh scattering.", "openai", "gpt", cost=0.02, latency=1.5)
PROMPT = "How do I cancel my gym membership?"
NEAR = "How can I cancel my gym membership"
MakeCache = Callable[..., SemanticCache]


def ask(prompt: str = PROMPT, **values: object) -> InferenceSubmission:
    return InferenceSubmission.model_validate({"prompt": prompt} | values)


def test_exact_then_semantic_then_miss(make_cache: MakeCache, events: list[str]):
    cache = make_cache()
    assert cache.get_similar_cached_response(PROMPT) is None
    assert cache.cache_response(PROMPT, ANSWER)
    exact = cache.get_similar_cached_response("how do I cancel my gym membership")
    near = cache.get_similar_cached_response(NEAR)
    assert exact is not None
    assert (exact.layer, exact.similarity, exact.verifier_score) == ("exact", 1.0, None)
    assert near is not None
    assert near.layer == "semantic"
    assert 0.85 <= near.similarity < 1.0
    assert near.answer == ANSWER
    assert near.saved_cost == 0.02
    assert cache.get_similar_cached_response("Who painted Guernica?") is None
    assert events == ["miss", "hit_exact", "hit_semantic", "miss"]


def test_the_answer_says_what_the_hit_was(make_cache: MakeCache):
    cache = make_cache()
    cache.cache_response(PROMPT, ANSWER)
    hit = cache.get_similar_cached_response(NEAR)
    assert hit is not None
    assert set(hit.as_response_field()) == {
        "layer", "similarity", "verifier_score", "age_seconds", "saved_cost", "saved_seconds",
    }  # fmt: skip


def test_the_threshold_of_the_call_and_of_the_request_is_a_cosine(make_cache: MakeCache):
    cache = make_cache()
    cache.cache_response(PROMPT, ANSWER)
    assert cache.get_similar_cached_response(NEAR, 0.999) is None
    assert cache.get_similar_cached_response(NEAR, 0.85) is not None
    strict = ask(NEAR, cache={"threshold": 0.999})
    assert cache.get_similar_cached_response(NEAR, 0.5, request=strict) is None


def test_two_prompts_behind_one_long_system_prompt_are_told_apart(make_cache: MakeCache):
    cache = make_cache()
    system = "You are a careful assistant of the Example Corporation. " * 60
    first = ask("Who painted Guernica?", system=system)
    second = ask("How do I boil an egg?", system=system)
    cache.cache_response("Who painted Guernica?", ANSWER, request=first)
    assert cache.get_similar_cached_response("How do I boil an egg?", request=second) is None


def test_over_256_tokens_there_is_only_the_exact_layer(make_cache: MakeCache):
    cache = make_cache()
    start = "word " * 300
    cache.cache_response(start + "one", ANSWER)
    assert cache.get_similar_cached_response(start + "two") is None
    hit = cache.get_similar_cached_response(start + "one")
    assert hit is not None
    assert hit.layer == "exact"


FIELD = st.text(alphabet=st.sampled_from(list("a|:{}@*\\\"'-, é\n")), max_size=4)
SCOPES = st.builds(Scope, *[FIELD] * 8)
ALIKE = st.tuples(SCOPES, SCOPES) | SCOPES.map(lambda scope: (scope, scope))


@pytest.fixture(scope="module")
def crossing(cache_redis: redis.Redis, embedder: Embedder, believer: Verifier) -> SemanticCache:
    return SemanticCache(cache_redis, embedder, believer, prefix="crossing")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(ALIKE)
def test_no_hit_ever_crosses_the_partition(crossing: SemanticCache, scopes: tuple[Scope, Scope]):
    one, two = scopes
    text = "What is the capital of France?"
    policy = crossing.rules.base
    decided = plan(ask(text), text, policy)
    stored = Lookup(text, one, decided, policy)
    assert crossing.store_answer(stored, ANSWER)
    near = "What is the capital city of France?"
    by_meaning, exact = crossing.look_up(
        [Lookup(near, two, decided, policy), Lookup(text, two, decided, policy)]
    )
    assert (exact is not None) == (one == two)
    assert by_meaning is None or one == two
    if one == two and not one.images:
        assert by_meaning is not None
    crossing.remove([stored.fingerprint])


def test_the_partition_holds_the_embedder_build(embedder: Embedder):
    scope = Scope("p", "m", "r", "s", "h", "t", "g", "i")
    assert partition_of(scope, embedder.build) != partition_of(scope, "another build")


def test_tenants_do_not_meet_unless_they_share_a_pool(make_cache: MakeCache):
    cache = make_cache()
    cache.cache_response(PROMPT, ANSWER, pool=tenant_pool("a"))
    assert cache.get_similar_cached_response(PROMPT, pool=tenant_pool("b")) is None
    assert cache.get_similar_cached_response(NEAR, pool=tenant_pool("b")) is None
    cache.cache_response(PROMPT, ANSWER, pool=shared_pool("faq"))
    assert cache.get_similar_cached_response(NEAR, pool=shared_pool("faq")) is not None


def test_history_and_tools_part_the_answers(make_cache: MakeCache):
    cache = make_cache()
    cache.cache_response(PROMPT, ANSWER)
    talk = InferenceSubmission(
        messages=[
            Message(role="user", content="I am a member of Y."),
            Message(role="assistant", content="Good."),
            Message(role="user", content=PROMPT),
        ]
    )
    assert cache.get_similar_cached_response(PROMPT, request=talk) is None
    assert cache.get_similar_cached_response(PROMPT, tools=[{"name": "cancel"}]) is None


def test_numbers_veto_at_any_cosine(make_cache: MakeCache, verifier: object, events: list[str]):
    cache = make_cache(verifier)
    cache.cache_response("Give me 5 names for a cat", ANSWER)
    assert cache.get_similar_cached_response("Give me 6 names for a cat", 0.5) is None
    assert "veto_number" in events


def test_many_lookups_answer_like_single_lookups_in_few_commands(
    make_cache: MakeCache, cache_redis: redis.Redis
):
    cache = make_cache()
    cache.cache_response(PROMPT, ANSWER)
    prompts = [PROMPT, NEAR, "Who painted Guernica?", "Name a prime number"]
    requests = [
        InferenceRequest(prompt=prompt, user_id="u", created_at=datetime.now(UTC))
        for prompt in prompts
    ]
    before = cache_redis.info("commandstats")
    hits = cache.look_up([cache.read(one, pool=tenant_pool("")) for one in requests])
    after = cache_redis.info("commandstats")
    assert [hit.layer if hit else None for hit in hits] == ["exact", "semantic", None, None]

    def calls(name: str) -> int:
        return int(after[name]["calls"]) - int(before.get(name, {"calls": 0})["calls"])

    assert calls("cmdstat_mget") == 2  # exact entries of all; entries of the one near request
    assert cache.look_up([]) == []


def test_mode_off_exact_and_refresh(make_cache: MakeCache):
    cache = make_cache()
    off = ask(cache={"mode": "off"})
    assert not cache.cache_response(PROMPT, ANSWER, request=off)
    cache.cache_response(PROMPT, ANSWER)
    assert cache.get_similar_cached_response(PROMPT, request=off) is None
    exact = ask(NEAR, cache={"mode": "exact"})
    assert cache.get_similar_cached_response(NEAR, request=exact) is None
    refresh = ask(cache={"mode": "refresh"})
    assert cache.get_similar_cached_response(PROMPT, request=refresh) is None
    assert cache.cache_response(PROMPT, Answer("New.", "p", "m"), request=refresh)
    hit = cache.get_similar_cached_response(PROMPT)
    assert hit is not None
    assert hit.answer.text == "New."


@pytest.mark.parametrize(
    "answer",
    [
        Answer("cut", "p", "m", finish_reason="length"),
        Answer("no", "p", "m", finish_reason="content_filter"),
        Answer("  ", "p", "m"),
    ],
)
def test_only_complete_answers_are_kept(make_cache: MakeCache, answer: Answer):
    cache = make_cache()
    assert not cache.cache_response(PROMPT, answer)
    assert cache.get_similar_cached_response(PROMPT) is None


def test_a_vector_that_the_caller_has_is_used(make_cache: MakeCache, embedder: Embedder):
    cache = make_cache()
    vector = np.array(embedder.embed(["Who painted Guernica?"])[0])
    cache.cache_response(PROMPT, ANSWER, vector)
    hit = cache.get_similar_cached_response("Who painted Guernica")
    assert hit is not None
    assert hit.prompt == PROMPT


def test_without_a_verifier_nothing_is_served_by_meaning(
    cache_redis: redis.Redis, embedder: Embedder, prefix: str
):
    cache = SemanticCache(cache_redis, embedder, None, prefix=prefix)
    cache.cache_response(PROMPT, ANSWER)
    assert cache.get_similar_cached_response(NEAR) is None
    assert cache.get_similar_cached_response(PROMPT) is not None
    cache.index.drop()


def test_where_the_embedder_is_behind_only_exact_repeats_are_served(
    make_cache: MakeCache, events: list[str]
):
    waits = [0.0]
    cache = make_cache(policy=CachePolicy(max_wait=0.1), embedding_delay=lambda: waits[0])
    cache.cache_response(PROMPT, ANSWER)
    waits[0] = 0.2
    assert cache.get_similar_cached_response(NEAR) is None
    assert events[-2:] == ["skipped_busy", "miss"]
    exact = cache.get_similar_cached_response(PROMPT)
    assert exact is not None
    assert exact.layer == "exact"
    assert cache.cache_response("Who painted Guernica?", ANSWER)  # without a vector
    waits[0] = 0.1
    assert cache.get_similar_cached_response(NEAR) is not None
    assert cache.get_similar_cached_response("Who painted the Guernica?") is None
    assert cache.get_similar_cached_response("Who painted Guernica?") is not None
    cache.cache_response("Who painted Guernica?", ANSWER)
    assert cache.get_similar_cached_response("Who painted the Guernica?") is not None
    assert cache.get_cache_stats()["skipped_busy"] == 1


def test_when_redis_is_away_everything_is_a_miss(embedder: Embedder, events: list[str]):
    with redis.Redis(port=1, socket_connect_timeout=0.2) as client:
        cache = SemanticCache(client, embedder, None, on_event=events.append)
        assert cache.get_similar_cached_response(PROMPT) is None
        assert not cache.cache_response(PROMPT, ANSWER)
    assert events == ["failed_lookup", "failed_store"]


def test_an_index_that_vanished_comes_back(make_cache: MakeCache, events: list[str]):
    cache = make_cache()
    cache.cache_response(PROMPT, ANSWER)
    cache.index.drop()
    assert cache.get_similar_cached_response(NEAR) is None
    assert "failed_lookup" in events
    assert cache.cache_response(PROMPT, ANSWER)
    assert cache.get_similar_cached_response(NEAR) is not None


def test_a_flat_index_finds_the_same(make_cache: MakeCache):
    cache = make_cache(algorithm="flat")
    cache.cache_response(PROMPT, ANSWER)
    assert cache.get_similar_cached_response(NEAR) is not None


def test_a_raised_pool_bar_and_a_known_wrong_pair_refuse(make_cache: MakeCache, events: list[str]):
    class Halfway:
        build = "halfway"

        def judge(self, prompt: str, stored: str, bar: float) -> Verdict:
            return Verdict(0.7, None if bar <= 0.7 else "low_score")

    cache = make_cache(Halfway(), CachePolicy(verifier_bar=0.5))
    cache.cache_response(PROMPT, ANSWER)
    hit = cache.get_similar_cached_response(NEAR)
    assert hit is not None
    cache.evidence.set_pool_bar(tenant_pool(""), 0.8)
    assert cache.get_similar_cached_response(NEAR) is None
    cache.evidence.set_pool_bar(tenant_pool(""), None)
    assert cache.get_similar_cached_response(NEAR) is not None
    wanted = cache.read(ask(NEAR), pool=tenant_pool("")).fingerprint
    cache.evidence.refuse(wanted, hit.fingerprint)
    assert cache.get_similar_cached_response(NEAR) is None
    assert "veto_known_wrong" in events
