"""Ways to scale, each behind the same interface and under the same limits on change."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace

import numpy as np

from workers.scaler.capacity import staffing
from workers.scaler.decide import Decision, Memory, decide_all
from workers.scaler.knobs import FleetLimits, QueueKnobs
from workers.scaler.rails import limit_change
from workers.scaler.signals import QueueSignals
from workers.scaler.simulate.priors import PriorBook
from workers.scaler.simulate.trace import Workload


class InferenceFlow:
    """The product's own decision code. Without `priors` it is the nowcast alone."""

    def __init__(self, knobs: QueueKnobs, priors: PriorBook | None) -> None:
        self._knobs = knobs
        self._priors = priors
        # The other policies know from the start that the signals can be trusted; so does this.
        self._memory = Memory(beta=knobs.beta, seen_since=-math.inf)
        self.decisions: list[Decision] = []

    def target(self, signals: QueueSignals) -> int:
        """Decide as the live tick does."""
        prior = None if self._priors is None else self._priors.at(signals.at)
        [(decision, self._memory)] = decide_all(
            [(signals, self._memory, prior)], {signals.queue: self._knobs}, FleetLimits()
        )
        self.decisions.append(decision)
        if decision.target is not None:
            return decision.target
        return 0 if decision.before is None else decision.before


class _Stabilised(ABC):
    """A rule without a forecast, under the product's limits on change."""

    def __init__(self, knobs: QueueKnobs) -> None:
        self._knobs = knobs
        self._needs: list[tuple[float, int]] = []

    @abstractmethod
    def need(self, signals: QueueSignals) -> int | None:
        """The rule; None to hold."""

    def target(self, signals: QueueSignals) -> int:
        """The rule's wish, after stabilisation and limits."""
        if signals.replicas is None:
            return 0
        need = self.need(signals)
        if need is None:
            return signals.replicas.desired
        since = signals.at - self._knobs.stabilisation_seconds
        self._needs = [entry for entry in self._needs if entry[0] > since]
        self._needs.append((signals.at, need))
        return limit_change(
            need,
            highest_recent=max(entry for _, entry in self._needs),
            replicas=signals.replicas,
            idle=False,
            knobs=self._knobs,
        ).target


class Reactive(_Stabilised):
    """Scales on queued and running jobs per slot, as a tuned HPA on concurrency does."""

    def __init__(self, knobs: QueueKnobs, *, utilisation: float) -> None:
        super().__init__(knobs)
        self._utilisation = utilisation

    def need(self, signals: QueueSignals) -> int | None:
        """`ceil((queued + running) / (slots * utilisation))`."""
        if signals.depth is None or signals.running is None:
            return None
        jobs = signals.depth + signals.running
        return math.ceil(jobs / (self._knobs.slots_per_replica * self._utilisation))


class KedaListLength(_Stabilised):
    """KEDA's Redis list trigger as it comes: `listLength` 5, and the HPA's window of 300 s."""

    LIST_LENGTH = 5

    def __init__(self, knobs: QueueKnobs) -> None:
        super().__init__(replace(knobs, stabilisation_seconds=300.0))

    def need(self, signals: QueueSignals) -> int | None:
        """`ceil(queue length / 5)`; running jobs are not in the list."""
        return None if signals.depth is None else math.ceil(signals.depth / self.LIST_LENGTH)


class Static:
    """Always the same number."""

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas

    def target(self, signals: QueueSignals) -> int:
        """The number."""
        return self._replicas


class Oracle(_Stabilised):
    """Knows the rates to come until a replica asked for now would be ready, and a little more."""

    def __init__(self, knobs: QueueKnobs, workload: Workload, *, beta: float) -> None:
        super().__init__(replace(knobs, stabilisation_seconds=0.0))
        self._beta = beta
        counts = np.array(workload.minute_counts)
        smooth = np.convolve(counts, np.ones(3) / 180.0, mode="same")
        ahead = 2 + math.ceil(knobs.cold_start_seconds / 60.0)
        padded = np.concatenate([smooth, np.full(ahead, smooth[-1])])
        self._rates = np.max(
            np.lib.stride_tricks.sliding_window_view(padded, ahead + 1), axis=1
        ).tolist()

    def need(self, signals: QueueSignals) -> int | None:
        """Square-root staffing for the highest true rate until then."""
        rate = self._rates[int(signals.at // 60.0)]
        return staffing(rate * signals.seconds_per_unit, self._beta, self._knobs.slots_per_replica)
