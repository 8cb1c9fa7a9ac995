"""How many replicas a load needs.

Loads are in busy slots (Erlang): the arrival rate times the time that a slot is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from workers.scaler.knobs import QueueKnobs


@dataclass(frozen=True, slots=True)
class Load:
    """The work in front of one queue."""

    offered: float  # busy slots that the arrivals of now keep occupied
    queued: float = 0.0
    running: float = 0.0
    seconds_per_job: float = 0.0


@dataclass(frozen=True, slots=True)
class Capacity:
    """Replicas by each reason; `required` is the highest of them, `binding` its name."""

    staffing: int
    backlog: int
    drain: int
    forecast: int
    required: int
    binding: str


def staffing(offered: float, beta: float, slots_per_replica: int) -> int:
    """Replicas for `offered` busy slots by square-root safety staffing: `ceil((a + b sqrt a)/c)`.

    Halfin and Whitt, "Heavy-traffic limits for queues with many exponential servers", 1981.
    """
    if offered <= 0.0:
        return 0
    return math.ceil((offered + beta * math.sqrt(offered)) / slots_per_replica - 1e-9)


def calculate_required_capacity(
    current_load: Load, predicted_load: float | None, *, knobs: QueueKnobs, beta: float
) -> Capacity:
    """The replicas that the load of now and the load to come need, with every term of it.

    `predicted_load` is in busy slots; None where no forecast is trusted. Without limits: those
    are applied afterwards (`rails`), so that the log shows what was wanted.
    """
    slots = knobs.slots_per_replica
    waiting, running = current_load.queued, current_load.running
    terms = {
        "staffing": staffing(current_load.offered, beta, slots),
        "backlog": math.ceil((waiting + running) / (slots * knobs.backlog_per_slot)),
        "drain": math.ceil(
            (running + waiting * current_load.seconds_per_job / knobs.drain_seconds) / slots
        ),
        "forecast": 0 if predicted_load is None else staffing(predicted_load, beta, slots),
    }
    binding = max(terms, key=lambda name: terms[name])
    return Capacity(**terms, required=terms[binding], binding=binding)


def adapt_beta(beta: float, *, late: int, started: int, knobs: QueueKnobs) -> float:
    """Raise `beta` after violations, lower it slowly without them.

    `beta + gain * (late/started - target)`: in the long run it rests where the share of late jobs
    is the target (the step of adaptive conformal inference, Gibbs and Candès 2021).
    """
    if started <= 0:
        return beta
    moved = beta + knobs.beta_gain * (late / started - knobs.violation_target)
    return min(max(moved, knobs.beta_min), knobs.beta_max)
