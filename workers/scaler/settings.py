"""What a tick needs to know about its surroundings."""

from __future__ import annotations

from dataclasses import dataclass, field

from workers.scaler.knobs import FleetLimits, Mode, QueueKnobs


@dataclass(frozen=True, slots=True)
class QueueTarget:
    """A queue, the Deployment that serves it, and how it is scaled."""

    queue: str
    deployment: str
    knobs: QueueKnobs


@dataclass(frozen=True, slots=True)
class ScalerSettings:
    """One scaler. `queues` in the order in which they get a scarce budget: most important first."""

    queues: tuple[QueueTarget, ...]
    mode: Mode = Mode.RECOMMEND
    limits: FleetLimits = field(default_factory=FleetLimits)
    unit: str = "requests"  # what is forecast: 'requests' or 'tokens'
    lookback_hours: float = 14 * 24.0
    refit_seconds: float = 3600.0
    seconds_per_job: float = 5.0  # assumed until jobs have finished
    tokens_per_job: float = 500.0  # assumed until jobs have finished
    namespace: str = "default"
    lease_name: str = "inferenceflow-scaler"
    holder: str = "scaler"  # unique per process: host name and pid
    prefix: str = ""
    dry_run: bool = False
