"""The seasonal priors of a trace, one per hour, each fitted only on what lay before it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from workers.scaler.forecast import PRIOR_BIN_SECONDS, Prior, fit_prior
from workers.scaler.simulate.trace import Workload

REFIT_SECONDS = 3600
MAX_HISTORY_BINS = 14 * 86_400 // PRIOR_BIN_SECONDS


class PriorBook:
    """Which prior was known when. Fitted once, used by every run over the same workload."""

    def __init__(self, priors: dict[int, Prior]) -> None:
        self._priors = priors  # by hour of the trace

    def at(self, moment: float) -> Prior | None:
        """The newest prior that was there at `moment`; None before the first."""
        return self._priors.get(int(moment // REFIT_SECONDS))

    def __len__(self) -> int:
        return len(self._priors)


def fit_priors(workload: Workload, min_history: float, *, cache: Path | None = None) -> PriorBook:
    """Fit a prior for every hour of the trace from `min_history` seconds on.

    With `cache`, a folder, the fits are read from there if they are of the very same arrivals,
    and kept there otherwise.
    """
    bins = [
        sum(workload.minute_counts[i : i + PRIOR_BIN_SECONDS // 60]) / PRIOR_BIN_SECONDS
        for i in range(0, len(workload.minute_counts), PRIOR_BIN_SECONDS // 60)
    ]
    digest = hashlib.sha256(json.dumps([bins, min_history]).encode()).hexdigest()[:16]
    kept = None if cache is None else cache / f"priors-{workload.name}-{digest}.json"
    if kept is not None and kept.exists():
        stored = json.loads(kept.read_text())
        return PriorBook({int(hour): Prior.from_fields(fields) for hour, fields in stored.items()})
    priors = {}
    per_hour = REFIT_SECONDS // PRIOR_BIN_SECONDS
    for hour in range(int(min_history // REFIT_SECONDS), int(workload.duration // REFIT_SECONDS)):
        known = bins[: hour * per_hour][-MAX_HISTORY_BINS:]
        first = hour * REFIT_SECONDS - len(known) * PRIOR_BIN_SECONDS
        priors[hour] = fit_prior(known, first, ahead_seconds=2.0 * REFIT_SECONDS)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({hour: asdict(prior) for hour, prior in priors.items()}))
    return PriorBook(priors)
