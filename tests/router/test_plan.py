"""Plans: who may answer a request, in which order, and why others may not."""

from __future__ import annotations

import pytest

from config.catalogue import ProviderConfig
from tasks.inference import InferenceSubmission
from tests.router.house import NAMES, House, outline
from workers.providers import errors as e
from workers.providers.registry import build_providers
from workers.router import Router


def test_a_model_is_asked_of_every_provider_that_offers_it_and_no_other(house: House) -> None:
    plan = house.plan("everywhere")
    assert [t.key for t in plan.targets] == ["one/both-at-one", "two/both-at-two"]
    assert (plan.name, plan.strategy, plan.notice) == ("both", "priority", None)


def test_a_retired_model_is_answered_by_its_successor_and_says_so(house: House) -> None:
    plan = house.plan("old")
    assert plan.name == "both"
    assert plan.notice == "old was retired on 2026-01-01; its successor both answered"


def test_fallbacks_follow_only_where_the_catalogue_names_them(house: House) -> None:
    assert [t.provider for t in house.plan("careful").targets] == ["one", "two"]


def test_an_unknown_name_is_refused(house: House) -> None:
    with pytest.raises(e.BadRequest, match="no model or route 'gpt-99'"):
        house.plan("gpt-99")


def test_auto_without_a_section_for_it_is_refused(house: House) -> None:
    with pytest.raises(e.BadRequest, match="'auto'"):
        house.plan("auto")


def test_what_has_no_key_is_refused_naming_the_variable(house: House) -> None:
    with pytest.raises(e.BadRequest, match="KEYED_API_KEY is not set; use m-one"):
        house.plan("kept")


def test_the_keyless_stand_in_serves_only_while_nothing_else_is_configured(house: House) -> None:
    assert [t.provider for t in house.plan("keyless").targets] == ["three"]
    keyed = build_providers(house.router.catalogue, {"keyed": ProviderConfig("k")})
    router = Router(house.router.catalogue, keyed, house.router.state)
    plan = router.route_request(InferenceSubmission(prompt="x", model_preference="keyless"))
    assert [t.provider for t in plan.targets] == ["keyed"]


def test_a_prompt_that_does_not_fit_goes_to_one_that_takes_it(house: House) -> None:
    plan = house.plan(prompt="word " * 1_200)  # about 1,500 tokens
    assert [t.provider for t in plan.targets] == ["two", "three"]
    assert outline(plan.passed_over) == [("one", "context_too_long")]


def test_a_prompt_that_fits_nowhere_is_refused_before_any_call(house: House) -> None:
    with pytest.raises(e.ContextTooLong, match=r"about 12\d\d\d tokens.*takes 3000.*shorten it"):
        house.plan(prompt="word " * 10_000)
    with pytest.raises(e.ContextTooLong, match="use m-two or m-three"):
        house.plan("m-one", prompt="word " * 1_200)
    assert house.counts() == [0, 0, 0]


def test_capabilities_choose(house: House) -> None:
    assert [t.provider for t in house.plan(stop=["END"]).targets] == ["two"]
    with pytest.raises(e.BadRequest, match=r"m-one does not support stop.*use m-two"):
        house.plan("m-one", stop=["END"])
    image = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
    with pytest.raises(e.BadRequest, match="does not support vision"):
        house.plan(prompt=None, messages=[{"role": "user", "content": [image]}])
    for form, missing in (
        ({"type": "json_object"}, "json"),
        ({"type": "json_schema", "json_schema": {}}, "json_schema"),
    ):
        with pytest.raises(e.BadRequest, match=f"does not support {missing}"):
            house.plan(response_format=form)


def test_max_tokens_beyond_a_model_is_refused(house: House) -> None:
    with pytest.raises(e.BadRequest, match="at most 100 tokens, max_tokens asks 101"):
        house.plan("m-one", max_tokens=101)


def test_cost_takes_the_cheapest_first(house: House) -> None:
    assert [t.provider for t in house.plan("cost").targets] == ["three", "two", "one"]


def test_weighted_draws_by_weight(house: House) -> None:
    first = [house.plan("weighted").targets[0].provider for _ in range(2_000)]
    shares = [first.count(name) / len(first) for name in NAMES]
    assert shares == pytest.approx([0.1, 0.3, 0.6], abs=0.05)


def test_latency_explores_now_and_then(house: House) -> None:
    assert house.plan("latency").order == "latency"
    house.router.explore = 1.0
    plans = [house.plan("latency") for _ in range(30)]
    assert {plan.order for plan in plans} == {"given"}
    assert len({plan.targets[0].provider for plan in plans}) > 1


def test_latency_settles_on_the_fastest(house: House) -> None:
    house.fakes["one"].behave(latency=0.08)
    house.fakes["three"].behave(latency=0.08)
    for _ in range(12):
        house.call("latency")
    assert house.counts() == [1, 10, 1]


def test_the_optimal_provider_is_the_one_that_a_call_would_go_to(house: House) -> None:
    plan = house.plan()
    best = house.router.select_optimal_provider(plan)
    assert best is not None
    assert best.provider == "one"
    house.fakes["one"].behave(mode="status", status=401)
    house.call()
    best = house.router.select_optimal_provider(plan)
    assert best is not None
    assert best.provider == "two"
    assert house.router.check_circuit_breaker("one", "one-model").state == "open"
