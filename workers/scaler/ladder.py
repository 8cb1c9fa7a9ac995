"""Which signals are trusted: from the seasonal forecast down to holding still."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from workers.scaler.knobs import QueueKnobs
from workers.scaler.signals import QueueSignals
from workers.scaler.track import Track


class Level(StrEnum):
    """A rung of the ladder, best first."""

    SEASONAL = "seasonal"  # season corrected by the present, beside everything below
    NOWCAST = "nowcast"  # the average of the last minutes, beside everything below
    REACTIVE = "reactive"  # depth and running jobs only
    HOLD = "hold"  # signals lost: change nothing


@dataclass(frozen=True, slots=True)
class Trust:
    """The chosen level and why not a better one."""

    level: Level
    reason: str


def choose_level(
    signals: QueueSignals, track: Track, *, seasonal_known: bool, knobs: QueueKnobs
) -> Trust:
    """The best level that the signals carry.

    `seasonal_known` tells whether a prior reaches to now and to the horizon.
    """
    if signals.lost:
        return Trust(Level.HOLD, "signals lost")
    arrivals = signals.arrivals
    if arrivals is None:
        return Trust(Level.REACTIVE, "arrival counts lost")
    if arrivals.history_seconds < knobs.min_nowcast_seconds:
        return Trust(Level.REACTIVE, "too few minutes of arrivals")
    if arrivals.history_seconds < knobs.min_history_seconds:
        return Trust(Level.NOWCAST, "too short a history for a season")
    if not seasonal_known:
        return Trust(Level.NOWCAST, "no seasonal forecast for now")
    if track.seasonal_loss is None:
        return Trust(Level.NOWCAST, "season not yet compared with what came")
    if not track.skilled:
        return Trust(Level.NOWCAST, "season worse than the last value")
    return Trust(Level.SEASONAL, "season better than the last value")
