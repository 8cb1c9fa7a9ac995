"""The decision itself: signals and memory in, a decision and the next memory out. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from workers.scaler.capacity import Capacity, Load, adapt_beta, calculate_required_capacity
from workers.scaler.forecast import Prior, Rates, look_ahead
from workers.scaler.knobs import FleetLimits, QueueKnobs
from workers.scaler.ladder import Level, Trust, choose_level
from workers.scaler.rails import limit_change, share_budget
from workers.scaler.signals import QueueSignals
from workers.scaler.track import TRACK_BIN_SECONDS, Track, advance


@dataclass(frozen=True, slots=True)
class Memory:
    """What is carried from one tick to the next, per queue."""

    beta: float
    track: Track = field(default_factory=Track)
    needs: tuple[tuple[float, int], ...] = ()  # (moment, need) within the stabilisation window
    seen_since: float | None = None  # since when no tick was without signals
    busy_at: float | None = None  # when there last was work
    started_seen: int = 0  # totals at the last adaption of beta
    late_seen: int = 0
    adapted_at: float = 0.0
    gone_since: float | None = None  # since when far less arrives than the season says


@dataclass(frozen=True, slots=True)
class Outlook:
    """The forecast behind a decision, in units of work per second."""

    current: float
    p50: float
    upper: float  # the quantile that the knobs ask for
    nowcast: float
    seasonal: float | None
    horizon: float  # seconds


@dataclass(frozen=True, slots=True)
class Decision:
    """Everything about one tick of one queue."""

    signals: QueueSignals
    trust: Trust
    outlook: Outlook | None
    capacity: Capacity | None  # None when holding
    beta: float
    track: Track
    before: int | None
    target: int | None  # None: hold whatever there is
    clamps: tuple[str, ...]
    gone_since: float | None = None  # as in Memory

    @property
    def direction(self) -> str:
        """`up`, `down` or `none`."""
        if self.target is None or self.before is None or self.target == self.before:
            return "none"
        return "up" if self.target > self.before else "down"

    @property
    def reason(self) -> str:
        """Why the target is what it is: the clamp that decided, or the binding term."""
        if self.capacity is None:
            return self.trust.reason
        return self.clamps[-1] if self.clamps else self.capacity.binding


def decide_queue(
    signals: QueueSignals, memory: Memory, prior: Prior | None, knobs: QueueKnobs
) -> tuple[Decision, Memory]:
    """Decide on one queue by itself, before the shared budget."""
    horizon = knobs.cold_start_seconds + knobs.tick_seconds
    arrivals = signals.arrivals
    rates: Rates | None = None
    track = memory.track
    if arrivals is not None:
        rates = look_ahead(arrivals, prior, signals.at, horizon, knobs)
    trust = choose_level(
        signals, track, seasonal_known=rates is not None and rates.seasonal is not None, knobs=knobs
    )
    if trust.level is Level.HOLD:
        before = None if signals.replicas is None else signals.replicas.desired
        held = Decision(signals, trust, None, None, memory.beta, track, before, None, ())
        return held, replace(memory, seen_since=None)
    # Not lost, so all of them are there.
    assert signals.depth is not None  # noqa: S101
    assert signals.running is not None  # noqa: S101
    assert signals.replicas is not None  # noqa: S101
    outlook = None if rates is None else _outlook(rates, trust, track, horizon)
    if rates is not None and outlook is not None:
        track = _follow(track, signals, rates, outlook, knobs)
    beta, memory = _learn(memory, signals, knobs)
    believed = outlook if trust.level in (Level.SEASONAL, Level.NOWCAST) else None
    load = Load(
        offered=0.0 if believed is None else believed.current * signals.seconds_per_unit,
        queued=signals.depth,
        running=signals.running,
        seconds_per_job=signals.seconds_per_job,
    )
    predicted = None if believed is None else believed.upper * signals.seconds_per_unit
    gone_since = _gone_since(memory, signals.at, rates, trust, knobs)
    if gone_since is not None and signals.at - gone_since < knobs.return_seconds:
        returning = _season(rates) * signals.seconds_per_unit
        predicted = max(predicted or 0.0, returning)
    capacity = calculate_required_capacity(load, predicted, knobs=knobs, beta=beta)
    since = signals.at - knobs.stabilisation_seconds
    needs = (
        *(entry for entry in memory.needs if entry[0] > since),
        (signals.at, capacity.required),
    )
    highest = max(need for _, need in needs)
    seen_since = signals.at if memory.seen_since is None else memory.seen_since
    if seen_since > since:
        # What was needed before the signals came (back) is not known.
        highest = max(highest, signals.replicas.desired)
    working = signals.depth > 0 or signals.running > 0 or _arriving(signals)
    busy_at = signals.at if working or memory.busy_at is None else memory.busy_at
    railed = limit_change(
        max(capacity.required, 1 if working else 0),
        highest_recent=highest,
        replicas=signals.replicas,
        idle=signals.at - busy_at >= knobs.idle_seconds,
        knobs=knobs,
    )
    decision = Decision(
        signals=signals,
        trust=trust,
        outlook=outlook,
        capacity=capacity,
        beta=beta,
        track=track,
        before=signals.replicas.desired,
        target=railed.target,
        clamps=railed.clamps,
        gone_since=gone_since,
    )
    return decision, replace(
        memory,
        track=track,
        needs=needs,
        seen_since=seen_since,
        busy_at=busy_at,
        gone_since=gone_since,
    )


def decide_all(
    entries: Sequence[tuple[QueueSignals, Memory, Prior | None]],
    knobs: Mapping[str, QueueKnobs],
    limits: FleetLimits,
) -> list[tuple[Decision, Memory]]:
    """Decide on all queues, the most important first, within the budget that they share.

    A queue that holds keeps what it has, and its replicas count against the budget.
    """
    decided = [
        decide_queue(signals, memory, prior, knobs[signals.queue])
        for signals, memory, prior in entries
    ]
    wishes = [(one.signals.queue, one.target) for one, _ in decided if one.target is not None]
    held = {one.signals.queue: one.before or 0 for one, _ in decided if one.target is None}
    granted = share_budget(wishes, knobs, limits, held=held)
    shared = []
    for decision, memory in decided:
        grant = granted[decision.signals.queue]
        if decision.target is not None and grant < decision.target:
            decision = replace(decision, target=grant, clamps=(*decision.clamps, "budget"))
        shared.append((decision, memory))
    return shared


def _season(rates: Rates | None) -> float:
    return 0.0 if rates is None or rates.season is None else rates.season


def _gone_since(
    memory: Memory, at: float, rates: Rates | None, trust: Trust, knobs: QueueKnobs
) -> float | None:
    """Since when load is missing that a trusted season says should be there; None if it is not.

    Clients that all stop at once (an outage of theirs, or of a network before us) come back all
    at once. The season is the only thing that still knows of them.
    """
    if rates is None:
        return None
    if memory.gone_since is not None:  # until it is back, not until it begins to come
        back = rates.current >= knobs.back_share * _season(rates)
        return None if back else memory.gone_since
    missing = rates.current < knobs.gone_share * _season(rates)
    return at if missing and trust.level is Level.SEASONAL else None


def _arriving(signals: QueueSignals) -> bool:
    arrivals = signals.arrivals
    return arrivals is not None and (arrivals.running_minute > 0 or any(arrivals.per_minute[-1:]))


def _outlook(rates: Rates, trust: Trust, track: Track, horizon: float) -> Outlook:
    """The rate to staff for, with the margin that its own kind of forecast has earned."""
    if trust.level is Level.SEASONAL and rates.seasonal is not None:
        p50, margin = rates.seasonal, track.seasonal_margin
    else:
        p50, margin = rates.nowcast, track.nowcast_margin
    return Outlook(
        current=rates.current,
        p50=p50,
        upper=p50 * (1.0 + margin),
        nowcast=rates.nowcast,
        seasonal=rates.seasonal,
        horizon=horizon,
    )


def _follow(
    track: Track, signals: QueueSignals, rates: Rates, outlook: Outlook, knobs: QueueKnobs
) -> Track:
    """Put the last five minutes on the record, once they are over."""
    arrivals = signals.arrivals
    bin_end = signals.at // TRACK_BIN_SECONDS * TRACK_BIN_SECONDS
    minutes = TRACK_BIN_SECONDS // 60
    # Minutes that ended after the bin: the bin may have ended some ticks ago.
    late = int(signals.at // 60 - bin_end // 60)
    if arrivals is None or bin_end <= track.bin_end or len(arrivals.per_minute) < minutes + late:
        return track
    end = len(arrivals.per_minute) - late
    actual = sum(arrivals.per_minute[end - minutes : end]) / TRACK_BIN_SECONDS
    return advance(
        track,
        bin_end=bin_end,
        actual=actual,
        horizon=outlook.horizon,
        nowcast=rates.nowcast,
        seasonal=rates.seasonal,
        upper=outlook.upper,
        quantile=knobs.quantile,
    )


def _learn(memory: Memory, signals: QueueSignals, knobs: QueueKnobs) -> tuple[float, Memory]:
    """Adapt beta every five minutes to the jobs that were really late."""
    if signals.at - memory.adapted_at < TRACK_BIN_SECONDS:
        return memory.beta, memory
    started = signals.started_total - memory.started_seen
    late = signals.late_total - memory.late_seen
    beta = memory.beta
    if memory.adapted_at > 0.0 and started > 0 and late >= 0:
        beta = adapt_beta(beta, late=late, started=started, knobs=knobs)
    return beta, replace(
        memory,
        beta=beta,
        adapted_at=signals.at,
        started_seen=signals.started_total,
        late_seen=signals.late_total,
    )
