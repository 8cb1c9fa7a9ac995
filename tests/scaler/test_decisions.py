from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.scaler.capacity import Load, adapt_beta, calculate_required_capacity, staffing
from workers.scaler.decide import Decision, Memory, decide_all, decide_queue
from workers.scaler.forecast import Prior
from workers.scaler.knobs import FleetLimits, QueueKnobs
from workers.scaler.ladder import Level, choose_level
from workers.scaler.rails import limit_change, share_budget
from workers.scaler.signals import QueueSignals, RecentArrivals, Replicas
from workers.scaler.track import Track

KNOBS = QueueKnobs(slots_per_replica=4, min_replicas=1, max_replicas=50)
SETTLED = Memory(beta=1.0, seen_since=0.0)
counts = st.integers(0, 200)
loads = st.floats(0, 1000)


def signals(**changes: object) -> QueueSignals:
    given_signals: dict[str, object] = {
        "queue": "normal",
        "at": 1_000_000.0,
        "replicas": Replicas(desired=4, ready=4),
        "depth": 0,
        "running": 8,
        "oldest_age": 0.0,
        "arrivals": RecentArrivals((60.0,) * 60, 30.0, 30.0, 7200.0),
        "seconds_per_unit": 8.0,
        "seconds_per_job": 8.0,
    }
    return QueueSignals(**{**given_signals, **changes})  # type: ignore[arg-type]


def decide(
    given_signals: QueueSignals,
    memory: Memory | None = None,
    knobs: QueueKnobs = KNOBS,
    prior: Prior | None = None,
) -> tuple[Decision, Memory]:
    return decide_queue(given_signals, memory or SETTLED, prior, knobs)


# How many replicas a load needs.


def test_staffing_is_the_square_root_rule() -> None:
    assert staffing(16.0, 1.0, 4) == 5  # (16 + 4) / 4
    assert staffing(16.0, 2.0, 4) == 6
    assert staffing(0.0, 3.0, 4) == 0


def test_every_term_of_the_capacity_can_bind() -> None:
    def needed(load: Load, predicted: float | None = None) -> tuple[int, str]:
        found = calculate_required_capacity(load, predicted, knobs=KNOBS, beta=1.0)
        return found.required, found.binding

    assert needed(Load(offered=16.0)) == (5, "staffing")
    # (40 + 8) / (4 * 1.5)
    assert needed(Load(offered=1.0, queued=40, running=8)) == (8, "backlog")
    # (8 + 40 * 60 / 60) / 4
    assert needed(Load(1.0, queued=40, running=8, seconds_per_job=60.0)) == (12, "drain")
    assert needed(Load(offered=16.0), 36.0) == (11, "forecast")


@given(loads, loads, counts, counts, st.floats(0, 4))
def test_more_load_never_needs_fewer_replicas(
    offered: float, more: float, queued: int, running: int, beta: float
) -> None:
    def needed(load: float) -> int:
        return calculate_required_capacity(
            Load(load, queued, running, 5.0), None, knobs=KNOBS, beta=beta
        ).required

    assert needed(offered) <= needed(offered + more)


@given(loads, counts, counts, st.one_of(st.none(), loads))
def test_the_binding_term_is_what_is_required(
    offered: float, queued: int, running: int, predicted: float | None
) -> None:
    found = calculate_required_capacity(
        Load(offered, queued, running, 5.0), predicted, knobs=KNOBS, beta=1.0
    )
    assert getattr(found, found.binding) == found.required
    assert found.required == max(found.staffing, found.backlog, found.drain, found.forecast)


@given(st.floats(0, 4), st.integers(0, 100), st.integers(0, 100))
def test_beta_follows_the_violations_within_its_limits(beta: float, late: int, more: int) -> None:
    started = late + more
    moved = adapt_beta(beta, late=late, started=started, knobs=KNOBS)
    assert KNOBS.beta_min <= moved <= KNOBS.beta_max
    if started and late / started > KNOBS.violation_target:
        assert moved >= beta
    else:
        assert moved <= beta


# The rails.


@given(counts, counts, st.integers(0, 60), st.integers(0, 10), st.booleans())
def test_the_rails_hold(required: int, recent: int, desired: int, stuck: int, idle: bool) -> None:
    recent = max(recent, required)
    railed = limit_change(
        required,
        highest_recent=recent,
        replicas=Replicas(desired, desired, stuck),
        idle=idle,
        knobs=KNOBS,
    )
    assert KNOBS.min_replicas <= railed.target <= KNOBS.max_replicas
    step = max(KNOBS.up_step, desired)
    assert railed.target <= max(desired + step, KNOBS.min_replicas)
    if railed.target < desired:
        assert railed.target >= min(recent, KNOBS.max_replicas)
    if stuck >= max(2, desired // 10):
        assert railed.target <= max(desired, KNOBS.min_replicas)
    if railed.target != required:
        assert railed.clamps


@pytest.mark.parametrize(
    ("required", "idle", "target"), [(0, True, 0), (0, False, 1), (1, True, 1)]
)
def test_only_an_idle_queue_that_may_goes_to_zero(required: int, idle: bool, target: int) -> None:
    low = replace(KNOBS, scale_to_zero=True, min_replicas=0)
    railed = limit_change(
        required, highest_recent=required, replicas=Replicas(1, 1), idle=idle, knobs=low
    )
    assert railed.target == target


THREE = {
    "high": replace(KNOBS, cost_per_replica_hour=2.0),
    "normal": replace(KNOBS, cost_per_replica_hour=1.0),
    "low": replace(KNOBS, min_replicas=0, cost_per_replica_hour=1.0),
}


def test_a_scarce_budget_is_filled_from_the_top() -> None:
    wishes = [("high", 6), ("normal", 6), ("low", 6)]
    assert share_budget(wishes, THREE, FleetLimits(), held={}) == dict(wishes)
    granted = share_budget(wishes, THREE, FleetLimits(max_replicas=10), held={})
    assert granted == {"high": 6, "normal": 4, "low": 0}
    granted = share_budget(wishes, THREE, FleetLimits(max_cost_per_hour=15.0), held={})
    assert granted == {"high": 6, "normal": 3, "low": 0}


def test_a_queue_that_holds_counts_against_the_budget() -> None:
    granted = share_budget(
        [("high", 6), ("low", 6)], THREE, FleetLimits(max_replicas=10), held={"normal": 3}
    )
    assert granted == {"normal": 3, "high": 6, "low": 1}


@given(counts, counts, counts, st.integers(0, 100), st.floats(0, 200))
def test_the_budget_is_kept_unless_the_minimums_break_it(
    high: int, normal: int, low: int, most: int, money: float
) -> None:
    wishes = [("high", high), ("normal", normal), ("low", low)]
    limits = FleetLimits(max_replicas=most, max_cost_per_hour=money)
    granted = share_budget(wishes, THREE, limits, held={})
    least = {queue: min(wish, THREE[queue].min_replicas) for queue, wish in wishes}
    assert all(least[queue] <= granted[queue] <= wish for queue, wish in wishes)
    assert sum(granted.values()) <= max(most, sum(least.values()))
    spent = 2.0 * granted["high"] + granted["normal"] + granted["low"]
    assert spent <= max(money, 2.0 * least["high"] + least["normal"]) + 1e-6


# The ladder of trust.


def level(seen: QueueSignals, track: Track | None = None, *, known: bool = True) -> Level:
    return choose_level(seen, track or Track(), seasonal_known=known, knobs=KNOBS).level


def history(seconds: float) -> RecentArrivals:
    return RecentArrivals((60.0,) * 60, 0.0, 0.0, seconds)


def test_the_ladder() -> None:
    skilled = Track(seasonal_loss=1.0, nowcast_loss=2.0, skilled=True)
    long = signals(arrivals=history(4 * 86_400.0))
    assert level(long, skilled) is Level.SEASONAL
    assert level(long, skilled, known=False) is Level.NOWCAST
    assert level(long, replace(skilled, skilled=False)) is Level.NOWCAST
    assert level(long, Track()) is Level.NOWCAST
    assert level(signals(arrivals=history(86_400.0)), skilled) is Level.NOWCAST
    assert level(signals(arrivals=history(300.0)), skilled) is Level.REACTIVE
    assert level(signals(arrivals=None), skilled) is Level.REACTIVE
    for lost in ({"depth": None}, {"running": None}, {"replicas": None}):
        assert level(signals(**lost), skilled) is Level.HOLD


# The decision.


def test_a_steady_load_is_staffed() -> None:
    decision, _ = decide(signals())
    assert decision.trust.level is Level.NOWCAST
    assert decision.capacity is not None
    assert decision.capacity.staffing == 3  # 1/s * 8 s = 8 slots; (8 + 2.83) / 4
    assert decision.target == 3
    assert (decision.direction, decision.reason) == ("down", "staffing")


def test_lost_signals_hold_and_forget_nothing() -> None:
    memory = Memory(beta=1.5, needs=((1.0, 3),), seen_since=7.0)
    decision, after = decide(signals(depth=None), memory)
    assert (decision.target, decision.before) == (None, 4)
    assert (decision.direction, decision.reason) == ("none", "signals lost")
    assert after == replace(memory, seen_since=None)
    assert decide(signals(replicas=None))[0].before is None


def test_lost_arrivals_leave_the_reactive_terms() -> None:
    decision, _ = decide(signals(arrivals=None, depth=100, running=16))
    assert decision.trust.level is Level.REACTIVE
    assert decision.outlook is None
    assert decision.capacity is not None
    assert decision.capacity.binding == "backlog"
    assert decision.target == 8  # 116 / 6 = 20, but at most 4 more at once
    assert decision.clamps == ("up_step",)


def test_scaling_in_waits_for_the_window() -> None:
    memory = replace(SETTLED, needs=((1_000_000.0 - 100.0, 4),))
    decision, memory = decide(signals(), memory)
    assert (decision.target, decision.clamps) == (4, ("stabilisation",))
    later, _ = decide(signals(at=1_000_000.0 + 100.0), memory)
    assert later.target == 3


def test_after_lost_signals_scaling_in_waits_for_a_whole_window() -> None:
    decision, memory = decide(signals(depth=None))
    decision, memory = decide(signals(at=1_000_030.0), memory)
    assert (decision.target, decision.clamps) == (4, ("stabilisation",))
    decision, memory = decide(signals(at=1_000_120.0), memory)
    assert decision.target == 4
    decision, memory = decide(signals(at=1_000_210.0), memory)
    assert decision.target == 3


def test_beta_learns_from_late_jobs_every_five_minutes() -> None:
    first, memory = decide(signals(started_total=100, late_total=0))
    assert first.beta == 1.0
    same, memory = decide(signals(at=1_000_200.0, started_total=200, late_total=50), memory)
    assert same.beta == 1.0
    after, memory = decide(signals(at=1_000_300.0, started_total=300, late_total=100), memory)
    assert after.beta == pytest.approx(1.0 + 0.1 * (0.5 - 0.01))
    reset, _ = decide(signals(at=1_000_600.0, started_total=3, late_total=0), memory)
    assert reset.beta == after.beta


def test_low_sleeps_and_wakes_at_the_first_arrival() -> None:
    low = replace(KNOBS, scale_to_zero=True, min_replicas=0)
    quiet = RecentArrivals((0.0,) * 60, 0.0, 0.0, 90_000.0)
    asleep = signals(replicas=Replicas(1, 1), running=0, arrivals=quiet)
    memory = replace(SETTLED, busy_at=1_000_000.0 - low.idle_seconds)
    decision, memory = decide(asleep, memory, low)
    assert decision.target == 0
    woken = signals(
        at=1_000_030.0,
        replicas=Replicas(0, 0),
        running=0,
        depth=1,
        arrivals=replace(quiet, running_minute=1.0, elapsed=30.0),
    )
    assert decide(woken, memory, low)[0].target == 1


def test_the_season_raises_what_the_present_needs() -> None:
    knobs = replace(KNOBS, cold_start_seconds=570.0, blend=1.0, rho=0.0)
    rising = Prior(fitted_at=0.0, start=999_000.0, values=(1.0, 1.0, 4.0, 4.0), step=600.0)
    known = signals(arrivals=history(9e5))
    skilled = Memory(beta=1.0, track=Track(seasonal_loss=1.0, skilled=True))
    decision, _ = decide(known, skilled, knobs, rising)
    assert decision.trust.level is Level.SEASONAL
    assert decision.capacity is not None
    assert decision.capacity.binding == "forecast"
    assert decision.capacity.required > decision.capacity.staffing
    unskilled, _ = decide(known, None, knobs, rising)
    assert unskilled.capacity is not None
    assert unskilled.capacity.binding == "staffing"


def test_load_that_is_gone_at_once_is_expected_back_for_some_hours() -> None:
    season = Prior(fitted_at=0.0, start=900_000.0, values=(2.0,) * 400, step=600.0)
    gone = RecentArrivals((0.0,) * 60, 0.0, 30.0, 9e5)
    skilled = Memory(beta=1.0, seen_since=0.0, track=Track(seasonal_loss=1.0, skilled=True))
    calm = signals(arrivals=gone, running=0)
    decision, memory = decide(calm, skilled, prior=season)
    assert decision.gone_since == memory.gone_since == calm.at
    assert decision.capacity is not None
    # 2/s at 8 s: 16 slots and 4 for safety
    assert (decision.capacity.binding, decision.capacity.required) == ("forecast", 5)
    # It stays so when the season loses its trust meanwhile, as it must while nothing comes ...
    shaken = replace(memory, track=Track(seasonal_loss=1.0, skilled=False))
    later = replace(calm, at=calm.at + KNOBS.return_seconds - 1.0)
    kept, memory = decide(later, shaken, prior=season)
    assert kept.capacity is not None
    assert (kept.trust.level, kept.capacity.required) == (Level.NOWCAST, 5)
    # ... and while it is only beginning to come back ...
    little = RecentArrivals((60.0,) * 60, 30.0, 30.0, 9e5)
    coming, memory = decide(replace(later, arrivals=little), memory, prior=season)
    assert coming.gone_since == calm.at
    # ... until it is believed.
    believed, memory = decide(replace(calm, at=later.at + 1.0), memory, prior=season)
    assert believed.capacity is not None
    assert believed.capacity.required == 0
    # Load that is back ends it, and a season without skill never begins it.
    full = RecentArrivals((100.0,) * 60, 50.0, 30.0, 9e5)
    back, memory = decide(signals(at=later.at + 60.0, arrivals=full), memory, prior=season)
    assert back.gone_since is memory.gone_since is None
    unskilled, _ = decide(calm, None, prior=season)
    assert unskilled.gone_since is None


def test_the_budget_is_shared_over_queues() -> None:
    knobs = {queue: replace(KNOBS, min_replicas=1) for queue in ("high", "low")}
    many = signals(queue="high", depth=200, running=16)
    entries = [
        (many, Memory(beta=1.0), None),
        (replace(many, queue="low"), Memory(beta=1.0), None),
        (replace(many, queue="held", depth=None), Memory(beta=1.0), None),
    ]
    decided = decide_all(entries, {**knobs, "held": KNOBS}, FleetLimits(max_replicas=14))
    assert [decision.target for decision, _ in decided] == [8, 2, None]
    assert decided[1][0].clamps[-1] == "budget"
    assert decided[1][0].reason == "budget"
