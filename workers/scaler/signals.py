"""What the scaler knows about a queue at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from tasks.arrivals import read_arrivals

RECENT_MINUTES = 60


@dataclass(frozen=True, slots=True)
class LedgerSignals:
    """What the job ledger says of one queue. Totals only ever grow (until a reset to 0)."""

    depth: int  # jobs that wait
    running: int
    oldest_age: float  # seconds that the longest waiting job has waited, 0 without one
    started_total: int  # jobs that were started, ever
    late_total: int  # those of them that had waited longer than the target
    busy_seconds_total: float  # slot-seconds of finished jobs, ever
    finished_total: int
    finished_tokens_total: int = 0  # estimated at submission, in the unit of the arrivals
    # Jobs of every worker that serves the queue, idle ones too, by `host:pid` or `host`.
    running_by_worker: dict[str, int] = field(default_factory=dict)

    @property
    def running_by_pod(self) -> dict[str, int]:
        """The same by host name, which in Kubernetes is that of the pod."""
        pods: dict[str, int] = {}
        for worker, jobs in self.running_by_worker.items():
            pod = worker.partition(":")[0]
            pods[pod] = pods.get(pod, 0) + jobs
        return pods


class LedgerReader(Protocol):
    """Reads one queue's signals; raises on failure (the scaler then holds)."""

    def __call__(self, queue: str, now: float) -> LedgerSignals:
        """The signals of `queue` at `now` (unix seconds)."""
        ...


@dataclass(frozen=True, slots=True)
class RecentArrivals:
    """Units of work (requests or tokens) per minute, oldest first, of the last full minutes."""

    per_minute: tuple[float, ...]
    running_minute: float  # units so far in the minute that has not ended
    elapsed: float  # seconds of it, 0 to 60
    history_seconds: float  # how long arrivals have been counted at all


@dataclass(frozen=True, slots=True)
class Replicas:
    """The workers of one queue. `desired` counts pods that are starting."""

    desired: int
    ready: int
    stuck: int = 0  # pods that have been starting for too long

    @property
    def pending(self) -> int:
        """Replicas that were asked for and are not ready."""
        return max(0, self.desired - self.ready)


@dataclass(frozen=True, slots=True)
class QueueSignals:
    """All inputs of one decision. `None` for what could not be read."""

    queue: str
    at: float  # unix seconds
    replicas: Replicas | None
    depth: int | None
    running: int | None
    oldest_age: float | None
    arrivals: RecentArrivals | None
    seconds_per_unit: float  # slot-seconds that one unit of work takes
    seconds_per_job: float
    started_total: int = 0
    late_total: int = 0

    @property
    def lost(self) -> bool:
        """Whether what is needed to decide anything at all is missing."""
        return self.replicas is None or self.depth is None or self.running is None


def read_recent(
    client: Any,
    queue: str,
    now: float,
    *,
    started: float | None,
    unit: str = "requests",
    prefix: str = "",
) -> RecentArrivals:
    """The last hour of arrivals of `queue` in `unit` ('requests' or 'tokens').

    `started` is when the first arrival ever was counted (unix seconds), as far as the caller
    knows: quiet minutes since then are zeros, minutes before are no minutes at all.
    """
    found = read_arrivals(client, queue, RECENT_MINUTES * 60, now=now, prefix=prefix)
    series = found.tokens if unit == "tokens" else found.requests
    full = [float(value) for value in series[:-1]]
    if started is None:
        started = float(found.start) if any(series) else now
    known = min(RECENT_MINUTES, int(now // 60.0) - int(started // 60.0))
    padded = [0.0] * (known - len(full)) + full
    return RecentArrivals(
        per_minute=tuple(padded),
        running_minute=float(series[-1]),
        elapsed=now % 60.0,
        history_seconds=max(0.0, now - started),
    )
