"""Tunes every policy on the first half of a trace, with equal budgets, and reports the second."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from workers.scaler.knobs import QueueKnobs
from workers.scaler.simulate.engine import Policy, Run, World, simulate
from workers.scaler.simulate.policies import (
    InferenceFlow,
    KedaListLength,
    Oracle,
    Reactive,
    Static,
)
from workers.scaler.simulate.priors import PriorBook
from workers.scaler.simulate.trace import Workload

WARM_UP_SECONDS = 43_200.0
REFERENCE = "reactive_tuned"
MARGIN = 0.6
WIDE_SHARE = 0.6  # of the budget; the rest looks around the best of it

Point = tuple[float, ...]


@dataclass(frozen=True)
class Candidate:
    """A policy with one choice of its knobs."""

    settings: dict[str, float]
    build: Callable[[], Policy]


@dataclass(frozen=True)
class Space:
    """The knobs that a policy is tuned by: their ranges, and the candidate at a point of them."""

    ranges: tuple[tuple[float, float], ...]
    build: Callable[[Point], Candidate]


@dataclass(frozen=True)
class Outcome:
    """A policy as it was tuned, and how it did on the days that it was not tuned on."""

    policy: str
    settings: dict[str, float]
    tuned: Run
    reported: Run
    instance: Policy


@dataclass(frozen=True)
class Experiment:
    """One trace at one cold start."""

    workload: Workload
    priors: PriorBook
    world: World
    knobs: QueueKnobs
    budget: int = 16  # candidates per tuned policy

    @property
    def half(self) -> float:
        """Where the first half ends, in seconds."""
        return self.workload.duration / 2.0


def spread(count: int, *ranges: tuple[float, float]) -> list[tuple[float, ...]]:
    """`count` points that cover the box of `ranges` evenly, the same ones every time.

    The additive recurrence of the generalised golden ratio (Roberts, "The unreasonable
    effectiveness of quasirandom sequences", 2018).
    """
    root = 2.0
    for _ in range(30):
        root = (1.0 + root) ** (1.0 / (len(ranges) + 1))
    return [
        tuple(
            low + (high - low) * ((0.5 + (i + 1) * root ** -(axis + 1)) % 1.0)
            for axis, (low, high) in enumerate(ranges)
        )
        for i in range(count)
    ]


def spaces(experiment: Experiment) -> dict[str, Space]:
    """The knobs of each policy. KEDA's trigger is taken as it comes."""
    knobs, workload = experiment.knobs, experiment.workload
    peak = max(workload.minute_counts) / 60.0 * float(workload.service.mean())
    most = max(2.0, 1.2 * peak / knobs.slots_per_replica)
    windows = (math.log(30.0), math.log(900.0))  # short ones matter more: even in the logarithm

    def predictive(point: Point, priors: PriorBook | None) -> Candidate:
        low, quantile, window = point[0], point[1], math.exp(point[2])
        tuned = replace(
            knobs,
            beta_min=low,
            beta=max(knobs.beta, low),
            quantile=quantile,
            stabilisation_seconds=window,
        )
        settings = {"beta_min": low, "quantile": quantile, "stabilisation_seconds": window}
        return Candidate(settings, partial(InferenceFlow, tuned, priors))

    def reactive(point: Point) -> Candidate:
        utilisation, window = point[0], math.exp(point[1])
        tuned = replace(knobs, stabilisation_seconds=window)
        settings = {"utilisation": utilisation, "stabilisation_seconds": window}
        return Candidate(settings, partial(Reactive, tuned, utilisation=utilisation))

    def static(point: Point) -> Candidate:
        return Candidate({"replicas": round(point[0])}, partial(Static, round(point[0])))

    def oracle(point: Point) -> Candidate:
        build = partial(Oracle, knobs, workload, beta=point[0])
        return Candidate({"beta": point[0]}, build)

    box = ((-0.5, 2.0), (0.5, 0.9), windows)
    return {
        "inferenceflow": Space(box, partial(predictive, priors=experiment.priors)),
        REFERENCE: Space(((0.6, 1.4), windows), reactive),
        "nowcast": Space(box, partial(predictive, priors=None)),
        "keda_list_length": Space((), lambda _: Candidate({}, partial(KedaListLength, knobs))),
        "static": Space(((1.0, most),), static),
        "oracle": Space(((-1.0, 2.0),), oracle),
    }


def choose(runs: Sequence[Run], target: float) -> int:
    """The cheapest run with at most `target` violations; without one, that with the fewest."""
    good = [i for i, run in enumerate(runs) if run.violation_rate <= target]
    if good:
        return min(good, key=lambda i: runs[i].replica_hours)
    return min(range(len(runs)), key=lambda i: runs[i].violation_rate)


def compare(experiment: Experiment) -> list[Outcome]:
    """Tune every policy on the first half and run it on the second.

    The reactive rule is tuned first, to the target. It sets the level of service: the others are
    tuned to fewer violations than it had (by `MARGIN`), so that what is left to compare on the
    second half is what they cost.
    """
    target = experiment.knobs.violation_target
    found = spaces(experiment)
    with _without_cycle_search():
        reference = _tune(experiment, REFERENCE, found[REFERENCE], target)
        limit = min(target, MARGIN * reference.tuned.violation_rate)
        return [
            reference if policy == REFERENCE else _tune(experiment, policy, space, limit)
            for policy, space in found.items()
        ]


@contextmanager
def _without_cycle_search() -> Iterator[None]:
    """Runs make millions of small records without cycles; looking for some takes 40 % longer."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def search(
    space: Space, budget: int, evaluate: Callable[[Candidate], Run], limit: float
) -> tuple[Candidate, Run]:
    """The best of `budget` candidates: most of them spread out, the rest around the best of those.

    Without knobs there is one candidate.
    """
    if not space.ranges:
        only = space.build(())
        return only, evaluate(only)
    points = spread(max(1, round(budget * WIDE_SHARE)), *space.ranges)
    tried = [space.build(point) for point in points]
    runs = [evaluate(candidate) for candidate in tried]
    best = points[choose(runs, limit)]
    near = [
        (max(low, middle - (high - low) / 6.0), min(high, middle + (high - low) / 6.0))
        for middle, (low, high) in zip(best, space.ranges, strict=True)
    ]
    for point in spread(budget - len(points), *near):
        tried.append(space.build(point))
        runs.append(evaluate(tried[-1]))
    chosen = choose(runs, limit)
    return tried[chosen], runs[chosen]


def _tune(experiment: Experiment, policy: str, space: Space, limit: float) -> Outcome:
    workload, world, half = experiment.workload, experiment.world, experiment.half
    candidate, tuned = search(
        space,
        experiment.budget,
        lambda tried: simulate(workload, tried.build(), world, end=half),
        limit,
    )
    instance = candidate.build()
    reported = simulate(
        workload,
        instance,
        world,
        start=max(0.0, half - WARM_UP_SECONDS),
        measured_from=half,
    )
    return Outcome(policy, candidate.settings, tuned, reported, instance)
