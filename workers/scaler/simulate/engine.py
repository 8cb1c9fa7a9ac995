"""An event-driven simulation of one queue: FIFO jobs, replicas that start cold and drain.

Between two events (a tick, a replica that gets ready) the number of slots does not change, and
jobs are started by the recursion for a FIFO queue with many servers: the next job starts when it
has arrived and the earliest slot is free (Kiefer and Wolfowitz 1955).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from workers.scaler.signals import RECENT_MINUTES, QueueSignals, RecentArrivals, Replicas
from workers.scaler.simulate.trace import Floats, Workload

SERVICE_WINDOW_JOBS = 500


@dataclass(frozen=True)
class World:
    """What a policy cannot choose."""

    cold_start: Callable[[float], float]  # seconds until a replica asked for at `t` is ready
    slots: int = 8
    tick: float = 60.0
    target_wait: float = 15.0
    initial_replicas: int = 4
    signals_lost: Callable[[float], bool] = field(default=lambda _moment: False)
    stuck_after: float = 360.0


class Policy(Protocol):
    """Something that sizes the queue at every tick."""

    def target(self, signals: QueueSignals) -> int:
        """The replicas that there shall be."""
        ...


@dataclass(frozen=True)
class Sample:
    """The state at one tick."""

    at: float
    desired: int
    ready: int
    queued: int
    running: int


@dataclass(frozen=True)
class Run:
    """What came of a simulation, counted from `measured_from` on."""

    replica_hours: float
    waits: Floats  # seconds, of the jobs that arrived in the measured time
    violations: int
    actions: int
    samples: list[Sample]

    @property
    def violation_rate(self) -> float:
        """Share of jobs that waited longer than the target."""
        return self.violations / len(self.waits) if len(self.waits) else 0.0

    @property
    def p95_wait(self) -> float:
        """The 95th percentile of the waits, in seconds."""
        return float(np.percentile(self.waits, 95)) if len(self.waits) else 0.0


class _Replica:
    __slots__ = ("asked_at", "busy_until", "number", "ready_at")

    def __init__(self, number: int, asked_at: float, ready_at: float) -> None:
        self.number = number
        self.asked_at = asked_at
        self.ready_at = ready_at


def simulate(
    workload: Workload,
    policy: Policy,
    world: World,
    *,
    start: float = 0.0,
    measured_from: float = 0.0,
    end: float | None = None,
) -> Run:
    """Run `policy` over the jobs of `workload` that arrive between `start` and `end`.

    Jobs still waiting at the end are run off with the slots of the end. Replica-hours count from
    being asked for until drained, as they are paid for.
    """
    end = workload.duration if end is None else end
    arrivals, service = workload.arrivals, workload.service
    first, last = (int(i) for i in np.searchsorted(arrivals, [start, end]))
    jobs, taken = arrivals[first:last].tolist(), service[first:last].tolist()
    count = len(jobs)
    offset = first
    waits: list[float] = []
    slots: list[tuple[float, int]] = []  # heap: (free at, replica number)
    replicas = [_Replica(i, start, start) for i in range(world.initial_replicas)]
    for replica in replicas:
        slots.extend((start, replica.number) for _ in range(world.slots))
    heapq.heapify(slots)
    serial = len(replicas)
    pending: list[_Replica] = []
    draining: list[float] = []  # when the busy slots of replicas that are going get free
    paid = 0.0  # replica-seconds after measured_from
    late = 0
    actions = 0
    job = arrived = 0
    samples: list[Sample] = []
    target_wait = world.target_wait
    measured_jobs = int(np.searchsorted(arrivals[first:last], measured_from))
    tick_number = 0
    while True:
        now = start + tick_number * world.tick
        if now >= end:
            break
        tick_number += 1
        # Ready replicas join at the moment they are ready, jobs in between start in order.
        while True:
            ready_at = min((replica.ready_at for replica in pending), default=math.inf)
            until = min(ready_at, now)
            while slots and job < count:
                arrival = jobs[job]
                free = slots[0][0]
                begin = max(free, arrival)
                if begin >= until:
                    break
                heapq.heapreplace(slots, (begin + taken[job], slots[0][1]))
                wait = begin - arrival
                waits.append(wait)
                if wait > target_wait:
                    late += 1
                job += 1
            if ready_at > now:
                break
            for replica in [one for one in pending if one.ready_at == ready_at]:
                pending.remove(replica)
                replicas.append(replica)
                for _ in range(world.slots):
                    heapq.heappush(slots, (ready_at, replica.number))
        while arrived < count and jobs[arrived] < now:
            arrived += 1
        draining = [free for free in draining if free > now]
        running = sum(free > now for free, _ in slots) + len(draining)
        desired = len(replicas) + len(pending)
        lost = world.signals_lost(now)
        signals = QueueSignals(
            queue=workload.name,
            at=now,
            replicas=Replicas(
                desired,
                len(replicas),
                sum(now - replica.asked_at > world.stuck_after for replica in pending),
            ),
            depth=None if lost else arrived - job,
            running=None if lost else running,
            oldest_age=None if lost else (now - jobs[job] if arrived > job else 0.0),
            arrivals=None if lost else _recent(workload, now, offset + arrived),
            seconds_per_unit=_service_seconds(workload, offset + job),
            seconds_per_job=_service_seconds(workload, offset + job),
            started_total=job,
            late_total=late,
        )
        target = policy.target(signals)
        if now >= measured_from:
            actions += target != desired
            samples.append(Sample(now, target, len(replicas), arrived - job, running))
        if target > desired:
            ready_at = now + world.cold_start(now)
            for _ in range(target - desired):
                pending.append(_Replica(serial, now, ready_at))
                serial += 1
        elif target < desired:
            going = desired - target
            while going and pending:  # a pod that has not started goes first
                pending.pop()
                going -= 1
            if going:
                busy = _remove(slots, replicas, going, now)
                for ends in busy:
                    draining.extend(ends)
                    if ends and now >= measured_from:
                        paid += max(ends) - now
        if now >= measured_from:
            paid += (len(replicas) + len(pending)) * min(world.tick, end - now)
    waits.extend(_run_off(jobs, taken, slots, job, end))
    measured = np.array(waits[measured_jobs:])
    violations = int(np.count_nonzero(measured > target_wait))
    return Run(paid / 3600.0, measured, violations, actions, samples)


def _remove(
    slots: list[tuple[float, int]], replicas: list[_Replica], count: int, now: float
) -> list[list[float]]:
    """Take the `count` least busy replicas out; for each, when its running jobs will end.

    This is what a pod deletion cost equal to the running jobs does.
    """
    running: dict[int, list[float]] = {replica.number: [] for replica in replicas}
    for free, number in slots:
        if free > now:
            running[number].append(free)
    victims = sorted(replicas, key=lambda one: (len(running[one.number]), -one.number))[:count]
    gone = {victim.number for victim in victims}
    replicas[:] = [replica for replica in replicas if replica.number not in gone]
    slots[:] = [entry for entry in slots if entry[1] not in gone]
    heapq.heapify(slots)
    return [running[number] for number in gone]


def _recent(workload: Workload, now: float, arrived: int) -> RecentArrivals:
    """What the minute buckets of the API would say at `now`."""
    minute = int(now // 60.0)
    return RecentArrivals(
        per_minute=workload.minute_counts[max(0, minute - RECENT_MINUTES) : minute],
        running_minute=arrived - workload.minute_sums[minute],
        elapsed=now - 60.0 * minute,
        history_seconds=now,
    )


def _service_seconds(workload: Workload, started: int) -> float:
    """Mean service time of the last jobs that were started, as a ledger would know it."""
    if started == 0:
        return float(workload.service_sums[-1] / max(1, len(workload.service)))
    since = max(0, started - SERVICE_WINDOW_JOBS)
    return float(
        (workload.service_sums[started] - workload.service_sums[since]) / (started - since)
    )


def _run_off(
    jobs: list[float], taken: list[float], slots: list[tuple[float, int]], job: int, end: float
) -> list[float]:
    """Waits of the jobs that had not started at `end`, with the slots that were there then."""
    waits = []
    if not slots:
        return [math.inf] * (len(jobs) - job)
    for arrival, service in zip(jobs[job:], taken[job:], strict=True):
        begin = max(arrival, slots[0][0], end)
        heapq.heapreplace(slots, (begin + service, slots[0][1]))
        waits.append(begin - arrival)
    return waits
