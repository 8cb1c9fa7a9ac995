"""The router's state: shared and local give the same answers, and both keep their promises."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.catalogue import ModelSpec, Offer, RateLimit
from tasks.breakers import read_breakers
from tasks.redis_client import connect
from tests.redis_server import free_port
from workers.router.local_state import LocalState
from workers.router.shared_state import SharedState
from workers.router.targets import Ask, BreakerPolicy, Order, Outcome, Result, RouterState, Target

SPEC = ModelSpec(
    id="m",
    offers=(Offer(provider="a", model="m"),),
    context_window=100,
    max_output=10,
    tier="small",
)
A, B, C = (Target(name, "m", SPEC, bucket=name) for name in "abc")
POLICY = BreakerPolicy(open_ms=10_000, max_open_ms=80_000)


class Clock:
    """Milliseconds that pass only when told to."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


@dataclass
class Bench:
    """A state and its clock."""

    state: RouterState
    clock: Clock

    def admit(
        self, *targets: Target, tokens: int = 10, order: Order = "given", dry: bool = False
    ) -> tuple[str | None, str, bool]:
        """The chosen target's provider, the call's token, and whether it is a probe."""
        token = uuid.uuid4().hex
        got = self.state.admit(Ask(targets, token, 60_000, tokens, order, dry))
        return got.target and got.target.provider, token, got.probe

    def end(
        self,
        target: Target,
        token: str,
        result: Result,
        *,
        probe: bool = False,
        latency_ms: float = 100,
        pause_ms: float = 0,
    ) -> None:
        shared = isinstance(self.state, SharedState)
        self.state.record(
            Outcome(
                target, token, result, latency_ms, pause_ms=pause_ms, probe=probe, shared=shared
            )
        )

    def call(self, target: Target, result: Result, **more: float) -> bool:
        """Admit and end one call; whether it was admitted."""
        chosen, token, probe = self.admit(target)
        if chosen is not None:
            self.end(target, token, result, probe=probe, **more)
        return chosen is not None

    def status(self, target: Target) -> str:
        return self.state.breaker(target.provider, target.model).state


@pytest.fixture(params=["local", "shared"])
def bench(request: pytest.FixtureRequest, router_redis: redis.Redis, router_prefix: str) -> Bench:
    clock = Clock()
    if request.param == "local":
        return Bench(LocalState(POLICY, clock_ms=clock, jitter=lambda: 1.0), clock)
    return Bench(
        SharedState(router_redis, POLICY, prefix=router_prefix, clock_ms=clock, jitter=lambda: 1.0),
        clock,
    )


def opened(bench: Bench, target: Target = A) -> None:
    for _ in range(POLICY.failures):
        assert bench.call(target, "failed")


def test_a_circuit_opens_after_failures_in_a_row_and_the_next_candidate_is_taken(
    bench: Bench,
) -> None:
    opened(bench)
    assert bench.admit(A, B)[0] == "b"
    got = bench.state.admit(Ask([A], "t", 1, 1))
    assert got.target is None
    assert [(p.reason, p.wait_seconds) for p in got.passed] == [("circuit_open", 10.0)]


def test_a_success_between_failures_keeps_it_closed(bench: Bench) -> None:
    for result in ("failed", "failed", "ok", "failed", "failed", "healthy", "failed") * 1:
        bench.call(A, result)  # type: ignore[arg-type]
    assert bench.admit(A)[0] == "a"


def test_half_of_the_calls_failing_opens_it_even_if_never_in_a_row(bench: Bench) -> None:
    admitted = [bench.call(A, "failed" if i % 2 else "ok") for i in range(12)]
    assert admitted == [True] * 10 + [False] * 2


def test_a_wrong_key_opens_it_at_once(bench: Bench) -> None:
    bench.call(A, "fatal")
    assert bench.admit(A)[0] is None


def test_half_open_lets_one_probe_through_and_its_success_closes(bench: Bench) -> None:
    opened(bench)
    bench.clock.ms += 10_000
    chosen, token, probe = bench.admit(A)
    assert (chosen, probe) == ("a", True)
    assert [bench.admit(A, B)[0] for _ in range(5)] == ["b"] * 5
    bench.end(A, token, "ok", probe=True)
    assert bench.admit(A)[::2] == ("a", False)


def test_a_failed_probe_doubles_the_time_open_up_to_the_bound(bench: Bench) -> None:
    opened(bench)
    waits = []
    for _ in range(6):
        wait = bench.state.admit(Ask([A], "t", 1, 1)).passed[0].wait_seconds
        waits.append(wait)
        bench.clock.ms += round(wait * 1000)
        assert bench.call(A, "failed")
    assert waits == [10, 20, 40, 80, 80, 80]


def test_a_killed_prober_leaves_the_circuit_to_the_next_after_its_lease(bench: Bench) -> None:
    opened(bench)
    bench.clock.ms += 10_000
    assert bench.admit(A)[2]  # and is never heard of again
    bench.clock.ms += POLICY.probe_ms - 1
    assert bench.admit(A)[0] is None
    bench.clock.ms += 1
    chosen, token, probe = bench.admit(A)
    assert (chosen, probe) == ("a", True)
    bench.end(A, token, "ok", probe=True)
    assert bench.admit(A)[0] == "a"


def test_a_slow_probe_that_lost_its_lease_may_close_but_not_open(bench: Bench) -> None:
    opened(bench)
    bench.clock.ms += 10_000
    _, slow, _ = bench.admit(A)
    bench.clock.ms += POLICY.probe_ms
    _, second, _ = bench.admit(A)
    bench.end(A, slow, "failed", probe=True)
    bench.end(A, second, "ok", probe=True)
    assert bench.admit(A)[::2] == ("a", False)


def test_a_probe_given_up_lets_the_next_call_probe(bench: Bench) -> None:
    opened(bench)
    bench.clock.ms += 10_000
    _, token, _ = bench.admit(A)
    bench.end(A, token, "released", probe=True)
    assert bench.admit(A)[2]


def test_calls_that_began_before_the_opening_do_not_move_it(bench: Bench) -> None:
    _, early, _ = bench.admit(A)
    _, other, _ = bench.admit(A)
    opened(bench)
    bench.end(A, early, "ok")
    bench.end(A, other, "failed")
    got = bench.state.admit(Ask([A], "t", 1, 1))
    assert [p.wait_seconds for p in got.passed] == [10.0]


def test_a_429_pauses_without_opening(bench: Bench) -> None:
    bench.call(A, "healthy", pause_ms=3_000)
    got = bench.state.admit(Ask([A], "t", 1, 1))
    assert [(p.reason, p.wait_seconds) for p in got.passed] == [("paused", 3.0)]
    bench.clock.ms += 3_000
    assert bench.admit(A)[::2] == ("a", False)


def test_least_busy_prefers_the_one_with_fewer_calls_and_forgets_dead_workers(
    bench: Bench,
) -> None:
    taken = [bench.admit(A, B, C, order="least_busy")[0] for _ in range(6)]
    assert sorted(taken) == ["a", "a", "b", "b", "c", "c"]
    bench.admit(A)
    assert bench.admit(A, B, order="least_busy")[0] == "b"
    bench.clock.ms += 60_000  # the leases of all of them end
    bench.admit(B)
    assert bench.admit(B, A, order="least_busy")[0] == "a"


def test_latency_takes_the_unmeasured_first_and_then_the_fastest(bench: Bench) -> None:
    for target, latency in ((A, 300.0), (B, 100.0)):
        chosen, token, _ = bench.admit(A, B, order="latency")
        assert chosen == target.provider
        bench.end(target, token, "ok", latency_ms=latency)
    assert bench.admit(A, B, order="latency")[0] == "b"
    for _ in range(8):
        bench.call(B, "ok", latency_ms=900)
    assert bench.admit(A, B, order="latency")[0] == "a"


def test_a_dry_question_reserves_nothing(bench: Bench) -> None:
    one = Target("r", "m", SPEC, limit=RateLimit(rpm=1), bucket="r")
    assert [bench.admit(one, dry=True)[0] for _ in range(3)] == ["r"] * 3
    assert [bench.admit(one)[0] for _ in range(2)] == ["r", None]


def test_unused_tokens_are_given_back(bench: Bench) -> None:
    target = Target("t", "m", SPEC, limit=RateLimit(tpm=400), bucket="t")
    _, token, _ = bench.admit(target, tokens=100)
    assert bench.admit(target, tokens=100)[0] is None
    shared = isinstance(bench.state, SharedState)
    bench.state.record(Outcome(target, token, "ok", 1.0, refund=100, shared=shared))
    assert bench.admit(target, tokens=100)[0] == "t"


def test_a_call_larger_than_the_burst_goes_when_the_bucket_is_full(bench: Bench) -> None:
    target = Target("t", "m", SPEC, limit=RateLimit(tpm=400), bucket="t")
    assert bench.admit(target, tokens=300)[0] == "t"
    got = bench.state.admit(Ask([target], "x", 1, 1))
    assert got.passed[0].reason == "rate_limited"
    assert 39 < got.passed[0].wait_seconds < 41  # a debt of 200, paid at 301 a minute


@settings(max_examples=40, deadline=None)
@given(rpm=st.integers(1, 200), seed=st.integers(0, 2**32))
def test_no_sixty_seconds_hold_more_requests_than_the_limit(rpm: int, seed: int) -> None:
    clock, rng = Clock(), random.Random(seed)
    bench = Bench(LocalState(clock_ms=clock), clock)
    target = Target("r", "m", SPEC, limit=RateLimit(rpm=rpm), bucket="r")
    times: list[int] = []
    for _ in range(rpm * 6):
        clock.ms += rng.randrange(0, max(1, 40_000 // rpm))
        if bench.admit(target)[0]:
            times.append(clock.ms)
    for start in times:
        assert sum(start <= t < start + 60_000 for t in times) <= rpm


STEPS = st.lists(
    st.tuples(
        st.integers(0, 6_000),  # ms that pass
        st.sampled_from(["given", "latency", "least_busy"]),
        st.sampled_from(["ok", "ok", "failed", "failed", "fatal", "healthy", "released", "lost"]),
        st.integers(1, 60),  # tokens
        st.integers(0, 2_000),  # latency
        st.sampled_from([0, 0, 0, 1_500]),  # pause
    ),
    max_size=60,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_redis_and_this_process_decide_alike(
    router_redis: redis.Redis, steps: list[tuple[int, Order, str, int, int, int]]
) -> None:
    clock = Clock()
    local = LocalState(POLICY, clock_ms=clock, jitter=lambda: 1.0)
    shared = SharedState(
        router_redis,
        POLICY,
        prefix=f"test:{uuid.uuid4().hex}:",
        clock_ms=clock,
        jitter=lambda: 1.0,
    )
    targets = [
        A,
        Target("b", "m", SPEC, limit=RateLimit(rpm=20), bucket="b"),
        Target("c", "m", SPEC, limit=RateLimit(rpm=40, tpm=600), bucket="c"),
    ]
    for passing, order, result, tokens, latency, pause in steps:
        clock.ms += passing
        token = uuid.uuid4().hex
        ask = Ask(targets, token, 5_000, tokens, order)
        here, there = local.admit(ask), shared.admit(ask)
        assert here.target == there.target
        assert here.probe == there.probe
        assert [(p.target, p.reason) for p in here.passed] == [
            (p.target, p.reason) for p in there.passed
        ]
        for mine, theirs in zip(here.passed, there.passed, strict=True):
            assert mine.wait_seconds == pytest.approx(theirs.wait_seconds, abs=0.002)
        if here.target is None or result == "lost":
            continue
        outcome = Outcome(
            here.target,
            token,
            result,  # type: ignore[arg-type]
            latency,
            pause_ms=pause,
            refund=tokens - 5,
            probe=here.probe,
        )
        assert local.record(outcome) == shared.record(outcome)


def test_every_key_expires(router_redis: redis.Redis, router_prefix: str) -> None:
    state = SharedState(router_redis, POLICY, prefix=router_prefix)
    target = Target("r", "m", SPEC, limit=RateLimit(rpm=10, tpm=1000), bucket="r")
    state.admit(Ask([target], "t", 1_000, 10))
    state.record(Outcome(target, "t", "fatal", 5.0))
    state.admit(Ask([target, A], "u", 1_000, 10))
    keys = list(router_redis.scan_iter(f"{router_prefix}*"))
    assert len(keys) >= 3
    assert all(0 < router_redis.pttl(key) <= 3_600_000 for key in keys)


def test_breakers_are_read_in_one_go(router_redis: redis.Redis, router_prefix: str) -> None:
    state = SharedState(router_redis, POLICY, prefix=router_prefix)
    state.admit(Ask([A], "t", 1_000, 10))
    state.record(Outcome(A, "t", "fatal", 5.0))
    first, second = read_breakers(router_redis, [("a", "m"), ("b", "m")], router_prefix)
    assert (first.state, first.failures, first.openings, first.shared) == ("open", 1, 1, True)
    assert 8 < first.retry_in_seconds <= 11
    assert (second.state, second.retry_in_seconds) == ("closed", 0)


def test_without_redis_this_process_decides_alone_and_says_so() -> None:
    answered: list[None] = []
    client = connect(f"redis://127.0.0.1:{free_port()}")
    state = SharedState(client, POLICY, local_share=0.5, on_fallback=lambda: answered.append(None))
    target = Target("r", "m", SPEC, limit=RateLimit(rpm=8), bucket="r")
    got = [state.admit(Ask([target], str(i), 1_000, 10)) for i in range(3)]
    assert [g.target is not None for g in got] == [True, False, False]  # 8/2 a minute, burst 1
    assert not got[0].shared
    assert len(answered) == 3
    for i in range(3):
        state.admit(Ask([A], f"a{i}", 1_000, 10))
        state.record(Outcome(A, f"a{i}", "failed", 1.0, shared=False))
    status = state.breaker("a", "m")
    assert (status.state, status.shared) == ("open", False)


def test_a_record_that_redis_does_not_take_is_let_go() -> None:
    state = SharedState(connect(f"redis://127.0.0.1:{free_port()}"), POLICY)
    assert state.record(Outcome(A, "t", "failed", 1.0, shared=True)) == "none"
    assert state.breaker("a", "m").state == "closed"
