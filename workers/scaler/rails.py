"""Limits on every change: minimum, maximum, steps, stabilisation, stuck pods, the shared budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workers.scaler.knobs import FleetLimits, QueueKnobs
from workers.scaler.signals import Replicas


@dataclass(frozen=True, slots=True)
class Railed:
    """What is left of a wish, and the names of the limits that changed it."""

    target: int
    clamps: tuple[str, ...]


def limit_change(
    required: int, *, highest_recent: int, replicas: Replicas, idle: bool, knobs: QueueKnobs
) -> Railed:
    """Bring `required` between the limits of its queue.

    `highest_recent` is the highest need within the stabilisation window, `required` included;
    scaling in goes no lower. `idle` allows a queue that may to go to zero. Pending replicas
    count as capacity: the change is measured against what was asked for, not what is ready.
    """
    current = replicas.desired
    clamps: list[str] = []
    target = required
    if target < current:
        target = min(highest_recent, current)
        if target > required:
            clamps.append("stabilisation")
    elif target > current:
        step = max(knobs.up_step, int(knobs.up_factor * current))
        if target > current + step:
            target = current + step
            clamps.append("up_step")
        # A backlog that only pending pods could work off is no reason for ever more of them.
        most = replicas.ready + 2 * knobs.up_step + int(knobs.pending_factor * replicas.ready)
        if target > max(most, current):
            target = max(most, current)
            clamps.append("pending")
        if replicas.stuck >= max(knobs.stuck_limit, current // 10):
            target = current
            clamps.append("stuck_pods")
    floor = knobs.min_replicas
    if knobs.scale_to_zero:
        floor = 0 if idle else max(1, floor)
    if target < floor:
        target = floor
        clamps.append("min")
    if target > knobs.max_replicas:
        target = knobs.max_replicas
        clamps.append("max")
    return Railed(target, tuple(clamps))


def share_budget(
    wishes: Sequence[tuple[str, int]],
    knobs: Mapping[str, QueueKnobs],
    limits: FleetLimits,
    *,
    held: Mapping[str, int],
) -> dict[str, int]:
    """Grant `wishes` (queue, replicas), most important queue first, within the fleet's limits.

    Every queue first gets what it must have (its minimum, if it wished so much), then the rest is
    filled in the given order. A budget below the minimums grants the minimums all the same: a
    queue is not switched off by a limit. `held` are queues that keep what they have; it counts.
    """
    granted = dict(held)
    granted.update((queue, min(wish, knobs[queue].min_replicas)) for queue, wish in wishes)
    for queue, wish in wishes:
        more = wish - granted[queue]
        if limits.max_replicas is not None:
            more = min(more, limits.max_replicas - sum(granted.values()))
        price = knobs[queue].cost_per_replica_hour
        if limits.max_cost_per_hour is not None and price > 0.0:
            spent = sum(
                count * knobs[name].cost_per_replica_hour for name, count in granted.items()
            )
            more = min(more, int((limits.max_cost_per_hour - spent) / price + 1e-9))
        granted[queue] += max(0, more)
    return granted
