from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.arrivals import Arrivals
from workers.scaler.forecast import (
    PRIOR_BIN_SECONDS,
    Prior,
    fit_prior,
    look_ahead,
    nowcast_rate,
    predict_traffic,
)
from workers.scaler.knobs import QueueKnobs
from workers.scaler.signals import RecentArrivals
from workers.scaler.track import SKILL_RECORDS, Track, advance, conformal_margin

KNOBS = QueueKnobs()
BINS_PER_DAY = 86_400 // PRIOR_BIN_SECONDS


def daily(days: float) -> list[float]:
    """A sine with the period of a day around 10."""
    moments = np.arange(int(days * BINS_PER_DAY)) / BINS_PER_DAY
    return [float(value) for value in 10.0 + 8.0 * np.sin(2.0 * np.pi * moments)]


@given(st.floats(0, 1e4), st.integers(0, 60), st.floats(0.1, 60))
def test_a_constant_rate_is_its_own_nowcast(rate: float, minutes: int, elapsed: float) -> None:
    recent = RecentArrivals((60.0 * rate,) * minutes, rate * elapsed, elapsed, 1e6)
    assert nowcast_rate(recent, 240.0) == pytest.approx(rate)


def test_the_newest_minutes_weigh_most() -> None:
    rising = RecentArrivals((0.0,) * 59 + (600.0,), 0.0, 0.0, 1e6)
    falling = RecentArrivals((600.0,) + (0.0,) * 59, 0.0, 0.0, 1e6)
    assert nowcast_rate(rising, 240.0) > 1.0
    assert nowcast_rate(falling, 240.0) < 0.1
    assert nowcast_rate(RecentArrivals((), 0.0, 0.0, 0.0), 240.0) == 0.0


def test_the_prior_is_linear_between_bins_and_ends() -> None:
    prior = Prior(fitted_at=0.0, start=1000.0, values=(1.0, 3.0), step=600.0)
    assert prior.at(1000.0) == 1.0
    assert prior.at(1300.0) == 2.0
    assert prior.at(1600.0) == 3.0
    assert prior.at(999.0) is None
    assert prior.at(1601.0) is None


def test_the_season_is_corrected_by_the_present() -> None:
    flat = Prior(fitted_at=0.0, start=0.0, values=(1.0,) * 20, step=600.0)
    double = RecentArrivals((120.0,) * 60, 0.0, 0.0, 1e6)
    seen = look_ahead(double, flat, 5000.0, 300.0, replace(KNOBS, rho=0.9))
    # blend * (1 + rho * (2 - 1)) + (1 - blend) * 2
    assert seen.seasonal == pytest.approx(0.5 * 1.9 + 0.5 * 2.0)
    assert seen.nowcast == pytest.approx(2.0)
    assert look_ahead(double, flat, 11_300.0, 300.0, KNOBS).seasonal is None
    assert look_ahead(double, None, 5000.0, 300.0, KNOBS).seasonal is None


def test_a_corrected_season_is_never_negative() -> None:
    falling = Prior(fitted_at=0.0, start=0.0, values=(9.0, 9.0, 0.0, 0.0), step=600.0)
    idle = RecentArrivals((0.0,) * 60, 0.0, 0.0, 1e6)
    assert look_ahead(idle, falling, 600.0, 600.0, KNOBS).seasonal == 0.0


def test_a_daily_season_is_learnt() -> None:
    prior = fit_prior(daily(4.25), 0.0)
    end = 4.25 * 86_400
    assert prior.fitted_at == end
    for ahead in (0.0, 3600.0, 3 * 3600.0):
        truth = 10.0 + 8.0 * math.sin(2.0 * math.pi * (end + ahead) / 86_400)
        assert prior.at(end + ahead) == pytest.approx(truth, abs=0.5)


def test_a_weekly_season_is_learnt_from_nine_days_on() -> None:
    quiet = [
        value + (20.0 if i // BINS_PER_DAY % 7 < 5 else 0.0) for i, value in enumerate(daily(14))
    ]
    saturday_noon, hour = 12.5 * 86_400.0, 3600.0
    truth = quiet[int(12.5 * BINS_PER_DAY) + 6]
    prior = fit_prior(quiet[: int(12.5 * BINS_PER_DAY)], 0.0)
    assert prior.at(saturday_noon + hour) == pytest.approx(truth, abs=4.0)
    # A first Saturday looks like any other day.
    without = fit_prior(quiet[: int(5.5 * BINS_PER_DAY)], 0.0)
    assert without.at(5.5 * 86_400.0 + hour) == pytest.approx(truth + 20.0, abs=4.0)


def test_a_prior_stays_between_zero_and_twice_the_peak() -> None:
    bins = [0.0] * (BINS_PER_DAY - 2) + [100.0, 90.0]
    prior = fit_prior(bins, 0.0, ahead_seconds=86_400.0)
    assert all(0.0 <= value <= 200.0 for value in prior.values)


def test_missing_bins_and_infinities_are_gaps() -> None:
    bins = daily(3)
    bins[10], bins[20] = math.inf, math.nan
    assert all(math.isfinite(value) for value in fit_prior(bins, 0.0).values)


def test_a_fit_leaves_no_files_and_no_output(capfd: pytest.CaptureFixture[str]) -> None:
    fit_prior(daily(2), 0.0)
    before = set(Path(tempfile.gettempdir()).glob("prophet-*"))
    fit_prior(daily(2), 0.0)
    assert set(Path(tempfile.gettempdir()).glob("prophet-*")) <= before
    assert "cmdstanpy" not in capfd.readouterr().err


def test_only_who_forecasts_pays_for_prophet() -> None:
    heavy = ("prophet", "pandas", "kubernetes", "matplotlib", "numpy")
    code = f"import sys, workers.scaler; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_too_short_a_history_is_refused() -> None:
    with pytest.raises(ValueError, match="at least a day"):
        fit_prior([1.0] * 100, 0.0)


def arrivals(minutes: int, requests: int) -> Arrivals:
    return Arrivals("normal", 600, (requests,) * minutes, (7 * requests,) * minutes)


def test_traffic_is_predicted_in_the_unit_that_is_asked_for() -> None:
    seen = arrivals(2 * 1440 + 1, 60)
    prior = predict_traffic(48, arrivals=seen)
    assert prior is not None
    assert prior.at(prior.fitted_at) == pytest.approx(1.0, rel=0.01)
    tokens = predict_traffic(24, arrivals=seen, unit="tokens")
    assert tokens is not None
    assert tokens.at(tokens.fitted_at) == pytest.approx(7.0, rel=0.01)


@pytest.mark.parametrize("seen", [arrivals(1440, 60), arrivals(2881, 0)])
def test_too_little_traffic_predicts_nothing(seen: Arrivals) -> None:
    assert predict_traffic(arrivals=seen) is None


# The record of forecasts.


def test_the_margin_covers_what_it_promises() -> None:
    rng = np.random.default_rng(7)
    truth = rng.gamma(20.0, 1.0, 2000)
    margin = conformal_margin(truth[:1000], np.full(1000, 20.0), 0.9)
    covered = np.mean(truth[1000:] <= 20.0 * (1.0 + margin))
    assert covered == pytest.approx(0.9, abs=0.03)


@given(
    st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 1e3)), max_size=50), st.floats(0.05, 0.99)
)
def test_the_margin_is_finite_and_never_negative(
    pairs: list[tuple[float, float]], quantile: float
) -> None:
    actual, forecast = np.array(pairs, dtype=float).reshape(-1, 2).T
    margin = conformal_margin(actual, forecast, quantile)
    assert margin >= 0.0
    assert math.isfinite(margin)


def follow(track: Track, bins: int, *, nowcast: float, seasonal: float, actual: float) -> Track:
    for _ in range(bins):
        track = advance(
            track,
            bin_end=track.bin_end + 300.0,
            actual=actual,
            horizon=90.0,
            nowcast=nowcast,
            seasonal=seasonal,
            upper=nowcast,
            quantile=0.9,
        )
    return track


def test_a_forecast_is_judged_by_the_bin_it_was_for() -> None:
    track = follow(Track(), 1, nowcast=5.0, seasonal=6.0, actual=1.0)
    assert track.outcomes == ()
    track = follow(track, 1, nowcast=9.0, seasonal=9.0, actual=6.0)
    [outcome] = track.outcomes
    assert (outcome.nowcast, outcome.seasonal, outcome.actual) == (5.0, 6.0, 6.0)
    assert track.coverage == 0.0


def test_skill_is_won_by_better_forecasts_and_lost_by_worse_ones() -> None:
    track = follow(Track(), SKILL_RECORDS, nowcast=5.0, seasonal=6.0, actual=6.0)
    assert not track.skilled
    track = follow(track, 1, nowcast=5.0, seasonal=6.0, actual=6.0)
    assert track.skilled
    assert track.seasonal_loss == 0.0
    assert track.nowcast_loss == 1.0
    track = follow(track, 100, nowcast=6.0, seasonal=60.0, actual=6.0)
    assert not track.skilled


def test_a_bin_that_was_missed_is_not_judged() -> None:
    track = follow(Track(), 1, nowcast=5.0, seasonal=6.0, actual=1.0)
    jumped = follow(
        Track(bin_end=track.bin_end + 3000.0, issued=track.issued),
        1,
        nowcast=5.0,
        seasonal=6.0,
        actual=6.0,
    )
    assert jumped.outcomes == ()
    assert len(jumped.issued) == 1
