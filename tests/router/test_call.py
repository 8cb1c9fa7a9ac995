"""Runs of plans: retries, failover, backpressure, streams, and honest failure."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tests.router.house import NAMES, House, outline
from workers.providers import errors as e
from workers.router import BreakerPolicy, RetryPolicy


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
