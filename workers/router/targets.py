"""What the router chooses between, and the questions and answers of its shared state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from config.catalogue import ModelSpec, RateLimit
from tasks.breakers import BreakerStatus

Order = Literal["given", "latency", "least_busy"]
Result = Literal["ok", "healthy", "failed", "fatal", "released"]
Reason = Literal["circuit_open", "rate_limited", "paused"]
REASONS: tuple[Reason, ...] = ("circuit_open", "rate_limited", "paused")
Change = Literal["none", "opened", "closed"]
CHANGES: tuple[Change, ...] = ("none", "opened", "closed")


@dataclass(frozen=True)
class Target:
    """One model at one provider: what a circuit breaker guards."""

    provider: str
    model: str  # as the provider names it
    spec: ModelSpec = field(repr=False)
    limit: RateLimit = field(default_factory=RateLimit)
    bucket: str = ""  # the rate limit's name; several targets may share one
    weight: float = 1.0

    @property
    def key(self) -> str:
        """Unique among targets."""
        return f"{self.provider}/{self.model}"


@dataclass(frozen=True)
class BreakerPolicy:
    """When a circuit opens, and for how long. Times in milliseconds."""

    failures: int = 3  # in a row
    failure_rate: float = 0.5  # of the calls in a window, once there were `min_calls`
    min_calls: int = 10
    window_ms: int = 30_000
    open_ms: int = 10_000  # the first time; doubled each time that the probe fails
    max_open_ms: int = 300_000
    probe_ms: int = 15_000  # then another call may probe, lest a killed prober leave it stuck


@dataclass(frozen=True)
class Ask:
    """May one of `targets` be called now? The first that may is reserved for `token`."""

    targets: Sequence[Target]
    token: str
    lease_ms: int  # the reservation ends by itself after this
    tokens: int  # input and output tokens that the call is expected to use
    order: Order = "given"
    dry: bool = False  # answer, but reserve nothing


@dataclass(frozen=True)
class Passed:
    """A candidate that may not be called now, and for how long."""

    target: Target
    reason: Reason
    wait_seconds: float


@dataclass(frozen=True)
class Admission:
    """The answer to an `Ask`."""

    target: Target | None  # None: none may be called now
    probe: bool  # this call decides whether a half-open circuit closes
    passed: tuple[Passed, ...]  # those that came before `target`
    shared: bool = True  # False: decided by this process alone


@dataclass(frozen=True)
class Outcome:
    """How an admitted call ended; see record.lua for what the results mean."""

    target: Target
    token: str
    result: Result
    latency_ms: float
    pause_ms: float = 0.0  # the provider asked to be left alone for so long
    refund: float = 0.0  # tokens reserved but not used; negative if more were used
    probe: bool = False  # it was admitted as one
    shared: bool = True  # where it was admitted


class RouterState(Protocol):
    """Breakers, rate limits, load and latency of every target."""

    def admit(self, ask: Ask) -> Admission:
        """Choose and reserve. Never raises for a lost Redis."""
        ...

    def record(self, outcome: Outcome) -> Change:
        """Tell how an admitted call ended. Never raises for a lost Redis."""
        ...

    def breaker(self, provider: str, model: str) -> BreakerStatus:
        """The state of one circuit breaker."""
        ...
