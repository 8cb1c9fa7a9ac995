"""How much work is coming: a seasonal prior, its correction by the present, and a nowcast.

Rates are in units of work (requests or tokens) per second.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from tasks.arrivals import Arrivals
from workers.scaler.knobs import QueueKnobs
from workers.scaler.signals import RecentArrivals

PRIOR_BIN_SECONDS = 600
PRIOR_AHEAD_SECONDS = 6 * 3600
WEEKLY_AFTER_SECONDS = 9 * 86_400
RHO_STEP_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Prior:
    """The season as it was known at `fitted_at`, at evenly spaced moments after it."""

    fitted_at: float  # unix seconds
    start: float  # unix seconds of the first value (the middle of its bin)
    values: tuple[float, ...]  # units per second
    step: float = float(PRIOR_BIN_SECONDS)

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Self:
        """The prior from its fields as JSON gives them back."""
        return cls(**{**fields, "values": tuple(fields["values"])})

    def at(self, moment: float) -> float | None:
        """The seasonal rate at `moment`, linear between bins; None outside what was predicted."""
        position = (moment - self.start) / self.step
        if position < 0.0 or position > len(self.values) - 1:
            return None
        below = int(position)
        share = position - below
        if share == 0.0:
            return self.values[below]
        return self.values[below] * (1.0 - share) + self.values[below + 1] * share


@dataclass(frozen=True, slots=True)
class Rates:
    """One look ahead: the rate now, and at the horizon by each way of forecasting."""

    current: float  # average of the last minutes
    nowcast: float  # at the horizon, without a season
    seasonal: float | None  # at the horizon, from the corrected season blended with the nowcast
    season: float | None = None  # at the horizon, from the season alone


def nowcast_rate(recent: RecentArrivals, tau_seconds: float) -> float:
    """Exponentially weighted average rate; the running minute weighs by how much of it is over.

    With `tau_seconds` as the age at which a minute weighs 1/e of the newest.
    """
    decay = math.exp(-60.0 / tau_seconds)
    units = recent.running_minute
    seconds = recent.elapsed
    weight = 1.0 if recent.elapsed <= 0.0 else math.exp(-recent.elapsed / (2.0 * tau_seconds))
    for value in reversed(recent.per_minute):
        units += weight * value
        seconds += weight * 60.0
        weight *= decay
        if weight < 0.01:
            break
    return units / seconds if seconds > 0.0 else 0.0


def look_ahead(
    recent: RecentArrivals, prior: Prior | None, at: float, horizon: float, knobs: QueueKnobs
) -> Rates:
    """The rates now and `horizon` seconds ahead.

    The season is corrected by the residual of now, which decays:
    `P(T) + rho^h (y_now - P_now)`, at least 0, then averaged with the nowcast.
    """
    current = nowcast_rate(recent, knobs.nowcast_tau_seconds)
    if prior is None:
        return Rates(current, current, None)
    # The average lags; the season is compared with it at the middle of what it averages.
    lag = min(knobs.nowcast_tau_seconds, 60.0 * len(recent.per_minute)) / 2.0
    now_prior, then_prior = prior.at(at - lag), prior.at(at + horizon)
    if now_prior is None or then_prior is None:
        return Rates(current, current, None)
    left = knobs.rho ** (horizon / RHO_STEP_SECONDS)
    corrected = max(0.0, then_prior + left * (current - now_prior))
    blended = knobs.blend * corrected + (1.0 - knobs.blend) * current
    return Rates(current, current, blended, then_prior)


def fit_prior(
    bins: Sequence[float], first_bin: float, *, ahead_seconds: float = PRIOR_AHEAD_SECONDS
) -> Prior:
    """Fit the daily (from 9 days on also weekly) season with Prophet and predict from the end on.

    `bins` are rates per `PRIOR_BIN_SECONDS`, oldest first, without gaps; `first_bin` is the unix
    second at which the first one begins. The prediction starts one bin before the end of the
    history, so that the present can be compared with it. Values are clipped to 0 and to twice
    the highest rate ever seen: an additive season extrapolates without bounds.

    Raises ValueError for a history under a day.
    """
    if len(bins) * PRIOR_BIN_SECONDS < 86_400:
        raise ValueError("a season needs at least a day of history")
    # Heavy, and wanted by nothing but the scaler's own process.
    import pandas as pd

    prophet_logger = logging.getLogger("cmdstanpy")
    if not any(isinstance(handler, logging.NullHandler) for handler in prophet_logger.handlers):
        # Without a handler of its own it installs one that writes to stderr at every fit.
        prophet_logger.addHandler(logging.NullHandler())
        prophet_logger.propagate = False
    # It logs an error at import when plotly, which nothing here needs, is not installed.
    logging.getLogger("prophet.plot").setLevel(logging.CRITICAL)
    from prophet import Prophet

    history = pd.DataFrame(
        {
            # Naive UTC: Prophet refuses time zones.
            "ds": pd.to_datetime(
                [first_bin + PRIOR_BIN_SECONDS * (i + 0.5) for i in range(len(bins))], unit="s"
            ),
            "y": [value if math.isfinite(value) else float("nan") for value in bins],
        }
    )
    end = first_bin + PRIOR_BIN_SECONDS * len(bins)
    start = end - 2.5 * PRIOR_BIN_SECONDS
    count = int(ahead_seconds // PRIOR_BIN_SECONDS) + 4
    moments = [start + PRIOR_BIN_SECONDS * i for i in range(count)]
    # The fit leaves its files behind wherever it wrote them.
    with tempfile.TemporaryDirectory(prefix="prophet-") as folder:
        model = Prophet(
            growth="flat",
            daily_seasonality=8,
            weekly_seasonality=3
            if len(bins) * PRIOR_BIN_SECONDS >= WEEKLY_AFTER_SECONDS
            else False,
            yearly_seasonality=False,
            uncertainty_samples=0,
        )
        model.fit(history, output_dir=folder)
        predicted = model.predict(pd.DataFrame({"ds": pd.to_datetime(moments, unit="s")}))
    ceiling = 2.0 * max(value for value in bins if math.isfinite(value))
    values = tuple(min(max(0.0, float(value)), ceiling) for value in predicted["yhat"])
    return Prior(fitted_at=end, start=start, values=values)


def predict_traffic(
    lookback_hours: float = 24, *, arrivals: Arrivals, unit: str = "requests"
) -> Prior | None:
    """The season of the hours to come, learnt from the last `lookback_hours` of `arrivals`.

    `unit` is 'requests' or 'tokens'. Only bins that are over and wholly known count. None if they
    are less than a day, or if nothing at all arrived.
    """
    series = arrivals.tokens if unit == "tokens" else arrivals.requests
    per_bin = PRIOR_BIN_SECONDS // 60
    end = len(series) - 1  # the last minute is still running
    count = min(end // per_bin, int(lookback_hours * 3600.0 // PRIOR_BIN_SECONDS))
    first = end - count * per_bin
    bins = [sum(series[i : i + per_bin]) / PRIOR_BIN_SECONDS for i in range(first, end, per_bin)]
    if count * PRIOR_BIN_SECONDS < 86_400 or not any(bins):
        return None
    return fit_prior(bins, float(arrivals.start + 60 * first))
