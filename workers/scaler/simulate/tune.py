"""Tunes every policy on the first half of a trace, with equal budgets, and reports the second."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
MARGIN = 0.8


@dataclass(frozen=True)
class Candidate:
    """A policy with one choice of its knobs."""

    settings: dict[str, float]
    build: Callable[[], Policy]


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


def candidates(experiment: Experiment) -> dict[str, list[Candidate]]:
    """The knobs that each policy is tried with. KEDA's is the trigger's default, untuned."""
    knobs, workload, count = experiment.knobs, experiment.workload, experiment.budget
    peak = max(workload.minute_counts) / 60.0 * float(workload.service.mean())
    most = max(2, math.ceil(1.2 * peak / knobs.slots_per_replica))
    sizes = sorted({max(1, round(most * (i + 1) / count)) for i in range(count)})
    found: dict[str, list[Candidate]] = {
        "inferenceflow": [],
        "reactive_tuned": [],
        "nowcast": [],
        "keda_list_length": [Candidate({}, partial(KedaListLength, knobs))],
        "static": [Candidate({"replicas": size}, partial(Static, size)) for size in sizes],
        "oracle": [],
    }
    windows = (math.log(30.0), math.log(1200.0))  # short ones matter more: even in the logarithm
    for low, quantile, log_window in spread(count, (-0.5, 1.0), (0.5, 0.95), windows):
        window = math.exp(log_window)
        tuned = replace(
            knobs,
            beta_min=low,
            beta=max(knobs.beta, low),
            quantile=quantile,
            stabilisation_seconds=window,
        )
        settings = {"beta_min": low, "quantile": quantile, "stabilisation_seconds": window}
        found["inferenceflow"].append(
            Candidate(settings, partial(InferenceFlow, tuned, experiment.priors))
        )
        found["nowcast"].append(Candidate(settings, partial(InferenceFlow, tuned, None)))
    for utilisation, log_window in spread(count, (0.6, 1.4), windows):
        window = math.exp(log_window)
        tuned = replace(knobs, stabilisation_seconds=window)
        found["reactive_tuned"].append(
            Candidate(
                {"utilisation": utilisation, "stabilisation_seconds": window},
                partial(Reactive, tuned, utilisation=utilisation),
            )
        )
    for (beta,) in spread(count, (-1.0, 2.0)):
        found["oracle"].append(
            Candidate({"beta": beta}, partial(Oracle, knobs, workload, beta=beta))
        )
    return found


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
    tried = candidates(experiment)
    reference = _tune(experiment, REFERENCE, tried[REFERENCE], experiment.knobs.violation_target)
    limit = min(experiment.knobs.violation_target, MARGIN * reference.tuned.violation_rate)
    return [
        reference if policy == REFERENCE else _tune(experiment, policy, choices, limit)
        for policy, choices in tried.items()
    ]


def _tune(
    experiment: Experiment, policy: str, choices: Sequence[Candidate], limit: float
) -> Outcome:
    workload, world, half = experiment.workload, experiment.world, experiment.half
    runs = [simulate(workload, choice.build(), world, end=half) for choice in choices]
    best = choose(runs, limit)
    instance = choices[best].build()
    reported = simulate(
        workload,
        instance,
        world,
        start=max(0.0, half - WARM_UP_SECONDS),
        measured_from=half,
    )
    return Outcome(policy, choices[best].settings, runs[best], reported, instance)
