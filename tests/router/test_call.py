"""Plans and their runs: who may answer, retries, failover, streams, and honest failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from config.catalogue import Catalogue, ProviderConfig
from tasks.inference import Attempt, InferenceSubmission
from tests.fakes.provider import FakeProvider
from workers.providers import errors as e
from workers.providers.base import CallLimits, Completion
from workers.providers.registry import build_providers
from workers.router import BreakerPolicy, Plan, RetryPolicy, Router
from workers.router.local_state import LocalState

NAMES = ("one", "two", "three")


def catalogue(urls: dict[str, str]) -> Catalogue:
    models: list[dict[str, Any]] = [
        {
            "id": f"m-{name}",
            "offers": [{"provider": name, "model": f"{name}-model"}],
            "context_window": 1_000 * (index + 1),
            "max_output": 100,
            "capabilities": ["stop"] if name == "two" else [],
            "tier": "small",
            "price": {"input": 3 - index, "output": 3 - index},
        }
        for index, name in enumerate(NAMES)
    ]
    models += [
        {
            **models[0],
            "id": "both",
            "aliases": ["everywhere"],
            "offers": [
                {"provider": "one", "model": "both-at-one"},
                {"provider": "two", "model": "both-at-two", "limit": {"rpm": 1}},
            ],
        },
        {**models[0], "id": "old", "retired": "2026-01-01", "successor": "both", "offers": [
            {"provider": "one", "model": "old-model"}]},
        {**models[0], "id": "careful", "fallbacks": ["m-two"], "offers": [
            {"provider": "one", "model": "careful-model"}]},
        {**models[0], "id": "seeing", "capabilities": ["vision"], "offers": [
            {"provider": "keyed", "model": "v"}]},
        {**models[0], "id": "kept", "offers": [{"provider": "keyed", "model": "k"}]},
    ]  # fmt: skip
    candidates = [{"model": f"m-{name}"} for name in NAMES]
    return Catalogue.model_validate(
        {
            "providers": {
                **{n: {"kind": "openai_compatible", "base_url": u} for n, u in urls.items()},
                "keyed": {"kind": "openai", "base_url": "http://x", "key_env": "KEYED_API_KEY"},
            },
            "models": models,
            "routes": {
                **{
                    strategy: {"strategy": strategy, "candidates": candidates}
                    for strategy in ("priority", "cost", "latency", "least_busy")
                },
                "weighted": {
                    "strategy": "weighted",
                    "candidates": [
                        {**c, "weight": w} for c, w in zip(candidates, (1, 3, 6), strict=True)
                    ],
                },
                "keyless": {
                    "candidates": [{"model": "kept"}],
                    "without_keys": [{"model": "m-three"}],
                },
            },
        }
    )


@dataclass
class House:
    """Three providers and a router over them."""

    fakes: dict[str, FakeProvider]
    router: Router
    noted: list[Attempt] = field(default_factory=list)

    def plan(self, preference: str = "priority", **fields: Any) -> Plan:
        fields.setdefault("prompt", "hello you")
        return self.router.route_request(InferenceSubmission(model_preference=preference, **fields))

    def call(
        self,
        preference: str = "priority",
        *,
        seconds: float = 20,
        first_byte: float = 20,
        cancelled: Callable[[], bool] = lambda: False,
        on_delta: Callable[[str], None] | None = None,
        on_restart: Callable[[], None] | None = None,
        **fields: Any,
    ) -> tuple[Completion, list[Attempt]]:
        return self.router.call(
            self.plan(preference, **fields),
            limits=CallLimits(
                time.monotonic() + seconds, first_byte_seconds=first_byte, cancelled=cancelled
            ),
            on_delta=on_delta,
            on_restart=on_restart,
        )

    def counts(self) -> list[int]:
        return [fake.count for fake in self.fakes.values()]


def outline(attempts: list[Attempt] | Any) -> list[tuple[str, str]]:
    return [(attempt.provider, attempt.status) for attempt in attempts]


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, FakeProvider]]:
    with FakeProvider() as one, FakeProvider() as two, FakeProvider() as three:
        yield {"one": one, "two": two, "three": three}


@pytest.fixture
def house(servers: dict[str, FakeProvider]) -> House:
    for fake in servers.values():
        fake.reset()
    book = catalogue({name: fake.url for name, fake in servers.items()})
    providers = build_providers(book, {name: ProviderConfig() for name in NAMES})
    built = House(
        servers,
        Router(
            book,
            providers,
            LocalState(BreakerPolicy()),
            policy=RetryPolicy(base_seconds=0.01, min_attempt_seconds=0.05),
            explore=0.0,
        ),
    )
    built.router.on_attempt = built.noted.append
    return built


# --- plans


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


# --- runs


def test_an_answer_and_its_attempt(house: House) -> None:
    completion, attempts = house.call()
    assert completion.text == "hello you"
    assert outline(attempts) == [("one", "ok")]
    assert house.noted == attempts


@pytest.mark.parametrize(
    ("behaviour", "status"),
    [
        ({"mode": "status", "status": 500}, "overloaded"),
        ({"mode": "status", "status": 401}, "authentication_failed"),
        ({"mode": "status", "status": 404}, "model_not_found"),
        ({"mode": "status", "status": 429}, "rate_limited"),
        ({"mode": "cut"}, "unreachable"),
        ({"mode": "empty"}, "invalid_response"),
        ({"mode": "invalid_json"}, "invalid_response"),
        ({"mode": "hang"}, "timeout"),
    ],
)
def test_each_failure_goes_to_the_next_provider_with_its_reason(
    house: House, behaviour: dict[str, Any], status: str
) -> None:
    house.fakes["one"].behave(**behaviour)
    completion, attempts = house.call(first_byte=0.2)
    assert completion.provider == "two"
    assert outline(attempts) == [("one", status), ("two", "ok")]
    assert attempts[0].error
    assert house.counts() == [1, 1, 0]


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ({"mode": "status", "status": 400}, e.BadRequest),
        ({"mode": "filtered"}, e.ContentFiltered),
    ],
)
def test_what_would_fail_anywhere_is_not_tried_elsewhere(
    house: House, behaviour: dict[str, Any], expected: type[e.ProviderError]
) -> None:
    house.fakes["one"].behave(**behaviour)
    with pytest.raises(expected) as caught:
        house.call()
    assert outline(caught.value.attempts) == [("one", expected.type)]
    assert house.counts() == [1, 0, 0]


def test_a_provider_that_finds_the_prompt_too_long_is_followed_by_larger_ones_only(
    house: House,
) -> None:
    too_long = {"mode": "status", "status": 400, "message": "prompt is too long"}
    house.fakes["two"].behave(**too_long)
    house.fakes["one"].behave(mode="status", status=500)
    assert house.call()[0].provider == "three"
    house.fakes["three"].behave(**too_long)
    with pytest.raises(e.ContextTooLong):
        house.call("m-three")


def test_one_provider_alone_is_tried_again_with_backoff(house: House) -> None:
    house.fakes["one"].then(mode="status", status=503).then(mode="status", status=503)
    completion, attempts = house.call("m-one")
    assert outline(attempts) == [("one", "overloaded")] * 2 + [("one", "ok")]
    assert completion.text == "hello you"


def test_retries_end_and_the_failure_tells_every_attempt(house: House) -> None:
    for fake in house.fakes.values():
        fake.behave(mode="status", status=500)
    with pytest.raises(e.AllProvidersFailed, match="one/one-model: overloaded") as caught:
        house.call()
    assert caught.value.retryable
    assert outline(caught.value.attempts) == [(name, "overloaded") for name in NAMES] * 3
    assert house.counts() == [3, 3, 3]


def test_failures_that_no_retry_mends_say_so(house: House) -> None:
    for fake in house.fakes.values():
        fake.behave(mode="status", status=401)
    with pytest.raises(e.AllProvidersFailed) as caught:
        house.call()
    assert not caught.value.retryable
    assert house.counts() == [1, 1, 1]


def test_open_circuits_everywhere_are_backpressure_and_call_nobody(house: House) -> None:
    for fake in house.fakes.values():
        fake.behave(mode="status", status=500)
    for _ in range(BreakerPolicy.failures):
        with pytest.raises(e.AllProvidersFailed):
            house.call()
    before = house.counts()
    with pytest.raises(e.NoCapacity) as caught:
        house.call()
    assert outline(caught.value.attempts) == [(name, "circuit_open") for name in NAMES]
    assert caught.value.retry_after == pytest.approx(10, abs=1.5)
    assert caught.value.retryable
    assert house.counts() == before


@pytest.mark.parametrize("behaviour", [{"mode": "status", "status": 500}, {"mode": "empty"}])
def test_one_request_alone_opens_no_circuit(house: House, behaviour: dict[str, Any]) -> None:
    for fake in house.fakes.values():
        fake.behave(**behaviour)
    for _ in range(BreakerPolicy.failures - 1):
        with pytest.raises(e.AllProvidersFailed):
            house.call()
    assert house.counts() == [6, 6, 6]
    for name in NAMES:
        assert house.router.check_circuit_breaker(name, f"{name}-model").state == "closed"


def test_a_job_that_comes_too_late_is_not_the_providers_fault(house: House) -> None:
    house.router.policy = RetryPolicy(min_attempt_seconds=2)
    for fake in house.fakes.values():
        fake.behave(mode="hang")
    for _ in range(BreakerPolicy.failures):
        with pytest.raises(e.ProviderTimeout):
            house.call(seconds=0.05)
        with pytest.raises(e.ProviderTimeout, match="before a provider"):
            house.call(seconds=-1)
        with pytest.raises(e.Cancelled):
            house.call(cancelled=lambda: True)
    assert house.router.check_circuit_breaker("one", "one-model").state == "closed"
    assert house.router.check_circuit_breaker("one", "one-model").failures == 0


def test_a_short_retry_after_is_waited_out(house: House) -> None:
    house.fakes["one"].then(mode="status", status=429, headers={"retry-after-ms": "300"})
    started = time.monotonic()
    _, attempts = house.call("m-one")
    assert outline(attempts) == [("one", "rate_limited"), ("one", "ok")]
    assert time.monotonic() - started >= 0.3


def test_a_long_retry_after_is_handed_back_and_holds_for_later_calls(house: House) -> None:
    house.fakes["one"].then(mode="status", status=429, headers={"retry-after": "30"})
    with pytest.raises(e.AllProvidersFailed) as caught:
        house.call("m-one")
    assert (caught.value.retryable, caught.value.retry_after) == (True, 30)
    with pytest.raises(e.NoCapacity) as later:
        house.call("m-one")
    assert later.value.retry_after == pytest.approx(30, abs=1)
    assert outline(later.value.attempts) == [("one", "paused")]
    assert house.counts() == [1, 0, 0]


def test_a_provider_that_says_it_is_exhausted_is_left_alone(house: House) -> None:
    house.fakes["one"].behave(
        headers={"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20s"}
    )
    assert house.call()[0].provider == "one"
    completion, attempts = house.call()
    assert completion.provider == "two"
    assert outline(attempts) == [("one", "paused"), ("two", "ok")]


def test_a_rate_limit_is_backpressure(house: House) -> None:
    house.fakes["one"].behave(mode="status", status=401)
    assert house.call("both")[0].provider == "two"
    with pytest.raises(e.NoCapacity) as caught:
        house.call("both")
    assert ("two", "rate_limited") in outline(caught.value.attempts)
    assert caught.value.retry_after == pytest.approx(10, abs=2)  # the circuit of `one` opens sooner


def test_the_deadline_bounds_everything(house: House) -> None:
    for fake in house.fakes.values():
        fake.behave(mode="hang")
    started = time.monotonic()
    with pytest.raises(e.ProviderError):
        house.call(seconds=1.0)
    assert time.monotonic() - started < 3
    assert min(house.counts()) >= 1  # each got its turn before the deadline


def test_a_cancelled_job_ends_during_a_wait(house: House) -> None:
    house.fakes["one"].behave(mode="status", status=429, headers={"retry-after": "1.9"})
    cancelled = threading.Event()

    def cancel() -> None:
        while not house.noted:
            cancelled.wait(0.01)
        cancelled.set()

    threading.Thread(target=cancel, daemon=True).start()
    with pytest.raises(e.Cancelled) as caught:
        house.call("m-one", cancelled=cancelled.is_set)
    assert outline(caught.value.attempts) == [("one", "rate_limited")]


def test_a_cancelled_call_says_nothing_about_the_provider(house: House) -> None:
    house.fakes["one"].behave(mode="hang")
    for _ in range(4):
        before = house.fakes["one"].count
        with pytest.raises(e.Cancelled):
            house.call(cancelled=lambda before=before: house.fakes["one"].count > before)
    assert house.router.check_circuit_breaker("one", "one-model").state == "closed"


# --- streams


def test_a_stream_fails_over_silently_before_its_first_word(house: House) -> None:
    house.fakes["one"].behave(mode="status", status=500)
    seen: list[str] = []
    completion, _ = house.call(on_delta=seen.append)
    assert ("".join(seen), completion.provider) == ("hello you", "two")


def test_a_stream_cut_after_text_was_sent_is_not_silently_begun_anew(house: House) -> None:
    house.fakes["one"].behave(mode="cut", text="a b c d e f")
    seen: list[str] = []
    with pytest.raises(e.AllProvidersFailed, match="cut after text was sent") as caught:
        house.call(on_delta=seen.append)
    assert seen
    assert outline(caught.value.attempts) == [("one", "unreachable")]
    assert house.counts() == [1, 0, 0]


def test_a_stream_that_may_restart_does_so_visibly(house: House) -> None:
    house.fakes["one"].behave(mode="cut", text="a b c d e f")
    seen: list[str] = []
    completion, attempts = house.call(
        on_delta=seen.append, on_restart=lambda: seen.append("<restart>")
    )
    assert "".join(seen).split("<restart>")[1] == completion.text == "hello you"
    assert outline(attempts) == [("one", "unreachable"), ("two", "ok")]


def test_what_on_delta_raises_passes_through_and_is_no_fault_of_the_provider(
    house: House,
) -> None:
    def gone(_: str) -> None:
        raise ConnectionResetError("client")

    for _ in range(5):
        with pytest.raises(ConnectionResetError):
            house.call(on_delta=gone)
    assert house.router.check_circuit_breaker("one", "one-model").state == "closed"
