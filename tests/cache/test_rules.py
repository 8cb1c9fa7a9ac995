"""What the settings and the catalogue say of caching, on both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from pydantic import ValidationError

from config.catalogue import DEFAULT_PATH, Catalogue, load_catalogue
from config.settings import Settings
from tasks.cache_policy import CachePolicy
from tasks.cache_rules import CacheRules, configured_rules
from tasks.exact_cache import Answer
from tasks.fingerprint import shared_pool, tenant_pool
from tasks.inference import InferenceSubmission
from tests.cache.conftest import Believer
from workers.cache.cache import SemanticCache
from workers.cache.embedding import Embedder

POOL = tenant_pool("acme")
ANSWER = Answer("Rayleigh scattering.", "p", "m")


def settings(**values: object) -> Settings:
    return Settings(_env_file=None, **values)  # type: ignore[call-arg, arg-type]


def changed(tmp_path: Path, change: Any) -> Catalogue:
    content = yaml.safe_load(DEFAULT_PATH.read_text())
    change(content)
    path = tmp_path / "models.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_catalogue(path)


def test_every_name_has_a_policy_and_a_revision() -> None:
    catalogue = load_catalogue()
    rules = configured_rules(settings(cache_ttl=60, cache_sliding_ttl=True), catalogue)
    assert set(rules.policies) == set(rules.revisions) == set(catalogue.names())
    assert {"auto", "small", "claude-sonnet", "claude-sonnet-5-5"} <= set(rules.policies)
    assert rules.policy("auto") == CachePolicy(ttl=60, sliding=True)
    assert rules.policy("no such name") == rules.base
    assert configured_rules(settings(cache_semantic=False), catalogue).base.layers == "exact"


def test_a_name_has_its_own_policy(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["routes"]["small"]["cache"] = {"layers": "exact", "ttl": 60}
        content["auto"]["cache"] = {"verifier_bar": 0.9, "volatile": True}
        for model in content["models"]:
            if model["id"] == "claude-sonnet-5-5":
                model["cache"] = {"layers": "none"}

    rules = configured_rules(settings(), changed(tmp_path, change))
    assert rules.policy("small") == CachePolicy(layers="exact", ttl=60)
    assert rules.policy("auto") == CachePolicy(verifier_bar=0.9, volatile=True)
    assert rules.policy("claude-sonnet").layers == "none"  # by its alias as well
    assert rules.policy("medium") == CachePolicy()


def test_the_revision_follows_what_may_answer(tmp_path: Path) -> None:
    def reprice(content: dict[str, Any]) -> None:
        for model in content["models"]:
            model["price"] = {"input": 1, "output": 1}
        content["routes"]["small"]["strategy"] = "priority"

    def another(content: dict[str, Any]) -> None:
        content["routes"]["small"]["candidates"] = [{"model": "claude-opus-5-5"}]

    before = configured_rules(settings(), load_catalogue())
    assert configured_rules(settings(), changed(tmp_path, reprice)).revisions == before.revisions
    after = configured_rules(settings(), changed(tmp_path, another))
    moved = {name for name in before.revisions if before.revision(name) != after.revision(name)}
    assert moved == {"small", "auto"}  # `auto` may choose the route


def test_tenants_share_a_pool_on_purpose_only() -> None:
    rules = CacheRules(
        shared=settings(cache_shared_pools="acme=team, beta = team").cache_shared_pools
    )
    assert rules.pool("acme") == rules.pool("beta") == shared_pool("team")
    assert rules.pool("team") == tenant_pool("team")
    asked = InferenceSubmission(prompt="Why is the sky blue?")
    assert rules.scope(asked, "acme") == rules.scope(asked, "beta") != rules.scope(asked, "team")


@pytest.mark.parametrize("value", ["acme", "acme=", "=team", "acme=team,beta"])
def test_a_bad_list_of_pools_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="tenant=pool"):
        settings(cache_shared_pools=value)


@pytest.fixture
def ruled(cache_redis: redis.Redis, embedder: Embedder, prefix: str) -> SemanticCache:
    rules = CacheRules(
        policies={
            "strict": CachePolicy(verifier_bar=0.9),
            "exact": CachePolicy(layers="exact"),
            "none": CachePolicy(layers="none"),
        },
        revisions={"strict": "1"},
    )
    return SemanticCache(cache_redis, embedder, Believer(score=0.6), prefix=prefix, rules=rules)


@pytest.mark.parametrize(
    ("name", "repeat", "reworded"),
    [("any", True, True), ("strict", True, False), ("exact", True, False), ("none", False, False)],
)
def test_a_lookup_goes_by_the_policy_of_its_name(
    ruled: SemanticCache, name: str, repeat: bool, reworded: bool
) -> None:
    def look(prompt: str) -> bool:
        asked = InferenceSubmission(prompt=prompt, model_preference=name)
        return ruled.get_similar_cached_response(prompt, request=asked, pool=POOL) is not None

    prompt = "Why is the sky blue?"
    asked = InferenceSubmission(prompt=prompt, model_preference=name)
    assert ruled.cache_response(prompt, ANSWER, request=asked, pool=POOL) is repeat
    assert look(prompt) is repeat
    assert look("Why is the sky so blue?") is reworded


def test_an_answer_of_another_revision_is_not_served(ruled: SemanticCache) -> None:
    asked = InferenceSubmission(prompt="Why is the sky blue?", model_preference="strict")
    ruled.cache_response("", ANSWER, request=asked, pool=POOL)
    assert ruled.look_up([ruled.read(asked, pool=POOL)]) != [None]
    assert ruled.look_up([ruled.read(asked, pool=POOL, revision="2")]) == [None]
