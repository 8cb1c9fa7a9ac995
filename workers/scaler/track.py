"""How good the forecasts were: rolling losses, coverage, and conformal quantiles.

At the end of every bin of five minutes one forecast is put on record for the bin that lies one
horizon ahead, and when that bin is over it is compared with what came. Nothing here looks at a
forecast that was made with knowledge of what it forecasts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

TRACK_BIN_SECONDS = 300
TRACK_RECORDS = 288  # a day
SKILL_RECORDS = 48  # four hours before a season can be trusted, or mistrusted
KEEP_RATIO = 1.05  # a trusted season is given up only when it is clearly worse


@dataclass(frozen=True, slots=True)
class Issued:
    """A forecast that waits for its bin. Rates in units per second."""

    bin_end: float
    nowcast: float
    seasonal: float | None
    upper: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """A forecast with what came of it."""

    actual: float
    nowcast: float
    seasonal: float | None
    upper: float


@dataclass(frozen=True, slots=True)
class Track:
    """The record of one queue, and what follows from it."""

    bin_end: float = 0.0  # end of the last bin that was taken in
    issued: tuple[Issued, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    nowcast_margin: float = 0.0  # relative: upper = forecast * (1 + margin)
    seasonal_margin: float = 0.0
    nowcast_loss: float | None = None  # mean absolute error, units per second
    seasonal_loss: float | None = None
    coverage: float | None = None  # share of bins that stayed below their upper quantile
    skilled: bool = False  # whether the season is worth following


def conformal_margin(actual: Floats, forecast: Floats, quantile: float) -> float:
    """The relative margin that would have covered `quantile` of what came, never negative.

    Split conformal prediction (Vovk et al. 2005): the ceil((n+1)q)-th smallest residual, so that
    few observations give a wider margin. Residuals are relative to the forecast, with a floor of
    a tenth of the mean, so that quiet nights do not inflate it. Both arrays have the shape (n,).
    """
    import numpy as np

    if len(actual) == 0:
        return 0.0
    least = max(0.1 * float(forecast.mean()), 1e-9)
    residuals = np.sort((actual - forecast) / np.maximum(forecast, least))
    rank = min(len(residuals), math.ceil((len(residuals) + 1) * quantile))
    return max(0.0, float(residuals[rank - 1]))


def advance(
    track: Track,
    *,
    bin_end: float,
    actual: float,
    horizon: float,
    nowcast: float,
    seasonal: float | None,
    upper: float,
    quantile: float,
) -> Track:
    """Take in the bin that ended at `bin_end` with the rate `actual`, and issue a forecast.

    The forecast is for the bin in whose middle `bin_end + horizon` lies nearest.
    """
    outcomes = track.outcomes
    waiting = []
    for entry in track.issued:
        if entry.bin_end == bin_end:
            outcomes = (
                *outcomes[-(TRACK_RECORDS - 1) :],
                Outcome(actual, entry.nowcast, entry.seasonal, entry.upper),
            )
        elif entry.bin_end > bin_end:
            waiting.append(entry)
    ahead = max(1, round(horizon / TRACK_BIN_SECONDS + 0.5)) * TRACK_BIN_SECONDS
    waiting.append(Issued(bin_end + ahead, nowcast, seasonal, upper))
    taken = replace(track, bin_end=bin_end, issued=tuple(waiting), outcomes=outcomes)
    return _assess(taken, quantile) if outcomes is not track.outcomes else taken


def _assess(track: Track, quantile: float) -> Track:
    """Work out margins, losses and skill anew from the outcomes."""
    import numpy as np

    outcomes = track.outcomes
    actual, nowcast, seasonal, upper = np.array(
        [(out.actual, out.nowcast, _or_nan(out.seasonal), out.upper) for out in outcomes]
    ).T
    known = ~np.isnan(seasonal)
    seasonal_loss: float | None = None
    skilled = False
    if int(known.sum()) >= SKILL_RECORDS:
        seasonal_loss = float(np.abs(actual - seasonal)[known].mean())
        # Over the same bins, or a quiet day without a season would decide.
        rival = float(np.abs(actual - nowcast)[known].mean())
        skilled = seasonal_loss <= rival * (KEEP_RATIO if track.skilled else 1.0)
    return replace(
        track,
        nowcast_margin=conformal_margin(actual, nowcast, quantile),
        seasonal_margin=conformal_margin(actual[known], seasonal[known], quantile),
        nowcast_loss=float(np.abs(actual - nowcast).mean()),
        seasonal_loss=seasonal_loss,
        coverage=float((actual <= upper).mean()),
        skilled=skilled,
    )


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
