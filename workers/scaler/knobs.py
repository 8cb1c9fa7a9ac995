"""What can be set about the scaler: the knobs of one queue, and the limits over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mode(StrEnum):
    """What the scaler may do with what it decides."""

    RECOMMEND = "recommend"  # only say it
    FLOOR = "floor"  # raise and lower the minimum of the HPA or ScaledObject in charge
    ACT = "act"  # set the Deployment's replicas; with an HPA in charge, its minimum instead


@dataclass(frozen=True, slots=True)
class QueueKnobs:
    """How one queue is scaled. Times are in seconds, loads in busy slots."""

    slots_per_replica: int = 8  # jobs that one replica runs at once
    cold_start_seconds: float = 60.0  # from asking for a replica to its first job
    tick_seconds: float = 60.0
    target_wait_seconds: float = 15.0  # a job that waits longer violates the objective
    violation_target: float = 0.01  # share of jobs that may

    min_replicas: int = 1
    max_replicas: int = 20
    scale_to_zero: bool = False
    idle_seconds: float = 900.0  # without work this long, a queue that may goes to zero
    cost_per_replica_hour: float = 0.0  # US dollars

    beta: float = 1.0  # safety staffing in standard deviations of the load, where it starts
    beta_min: float = 0.0
    beta_max: float = 4.0
    beta_gain: float = 0.1  # how far a window in which every job was late would raise beta
    backlog_per_slot: float = 1.5  # g: queued and running jobs tolerated per slot
    drain_seconds: float = 60.0  # T_drain: a backlog is to be worked off in this time
    quantile: float = 0.8  # of the forecast, that the staffing is for
    nowcast_tau_seconds: float = 150.0  # memory of the moving average
    rho: float = 0.95  # share of today's deviation from the season that is left 5 minutes on
    blend: float = 0.5  # weight of the corrected season against the nowcast
    gone_share: float = 0.3  # under this share of the season, the load is gone
    back_share: float = 0.8  # from this share on it is back
    return_seconds: float = 4 * 3600.0  # so long the season is staffed, because it may return
    min_history_seconds: float = 3 * 86_400.0  # before a seasonal forecast is tried
    min_nowcast_seconds: float = 600.0  # of counted arrivals before they are believed

    up_step: int = 4  # per tick at most max(up_step, up_factor * current) more
    up_factor: float = 1.0
    stabilisation_seconds: float = 180.0  # scale in only to the highest need of this window
    pending_factor: float = 2.0  # pending at most 2 up_step + pending_factor * ready
    stuck_limit: int = 2  # with so many stuck pods, asking for more is pointless

    @property
    def stuck_after_seconds(self) -> float:
        """A pod that has been pending for so long is not going to start."""
        return max(180.0, 3.0 * self.cold_start_seconds)


@dataclass(frozen=True, slots=True)
class FleetLimits:
    """What all queues together may take. `None`: no limit."""

    max_replicas: int | None = None
    max_cost_per_hour: float | None = None  # US dollars
