"""Traces: from a file of rates or of requests to the arrivals and service times of single jobs."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Workload:
    """Jobs in the order in which they arrive; times in seconds from the start of the trace."""

    name: str
    arrivals: Floats
    service: Floats  # seconds that each job takes a slot
    duration: float
    # Cumulated sums, so that a mean over any stretch is one subtraction.
    service_sums: Floats
    minute_counts: tuple[float, ...]  # arrivals in each minute
    minute_sums: tuple[float, ...]  # arrivals before each minute


@dataclass(frozen=True)
class Shape:
    """How a trace becomes jobs."""

    mean_load: float = 16.0  # busy slots on average over the trace
    service_seconds: float = 10.0  # mean
    service_cv: float = 1.0  # of the log-normal service time
    seed: int = 1


class TraceError(ValueError):
    """The trace file is neither of rates (`t_s,rate_rps`) nor of requests (`TIMESTAMP,...`)."""


def load_trace(path: Path, shape: Shape) -> Workload:
    """Read `path` and scale it to the mean load that `shape` asks for.

    A file of rates (`t_s,rate_rps`) is read as the mean rate of each window; between the middles
    of two windows the rate is taken as linear, and jobs arrive as a Poisson process of that rate
    (thinning a large stream leaves a Poisson stream). A file of requests (`TIMESTAMP` and token
    counts, as Azure's) keeps its own arrivals; the service times follow its generated tokens and
    are scaled to the mean load.

    Raises TraceError for any other file.
    """
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        fields = reader.fieldnames or []
        if {"t_s", "rate_rps"} <= set(fields):
            rows = [(float(row["t_s"]), float(row["rate_rps"])) for row in reader]
            return _from_rates(path.stem, rows, shape)
        if {"TIMESTAMP", "GeneratedTokens"} <= set(fields):
            requests = [(_seconds(row["TIMESTAMP"]), int(row["GeneratedTokens"])) for row in reader]
            return _from_requests(path.stem, requests, shape)
    raise TraceError(f"{path}: expected the columns t_s and rate_rps, or TIMESTAMP and tokens")


def make_workload(name: str, arrivals: Floats, service: Floats, duration: float) -> Workload:
    """A workload from jobs; `arrivals` must be sorted."""
    minutes = int(np.ceil(duration / 60.0))
    counts, _ = np.histogram(arrivals, bins=minutes, range=(0.0, minutes * 60.0))
    return Workload(
        name=name,
        arrivals=arrivals,
        service=service,
        duration=duration,
        service_sums=np.concatenate([[0.0], np.cumsum(service)]),
        minute_counts=tuple(counts.astype(float).tolist()),
        minute_sums=tuple(np.concatenate([[0.0], np.cumsum(counts)]).tolist()),
    )


def from_rate(
    name: str, rates: Floats, step: float, shape: Shape, rng: np.random.Generator
) -> Workload:
    """Poisson arrivals with the given rate (per second) in steps of `step` seconds."""
    counts = rng.poisson(np.maximum(rates, 0.0) * step)
    starts = np.repeat(np.arange(len(rates)) * step, counts)
    arrivals = np.sort(starts + rng.random(len(starts)) * step)
    sigma = np.sqrt(np.log1p(shape.service_cv**2))
    service = shape.service_seconds * rng.lognormal(-(sigma**2) / 2.0, sigma, len(arrivals))
    return make_workload(name, arrivals, service, len(rates) * step)


def _from_rates(name: str, rows: list[tuple[float, float]], shape: Shape) -> Workload:
    if len(rows) < 2:
        raise TraceError(f"{name}: a trace of rates needs at least two rows")
    times = np.array([time for time, _ in rows]) - rows[0][0]
    window = float(times[1] - times[0])
    step = 10.0
    moments = np.arange(0.0, len(rows) * window, step) + step / 2.0
    rates = np.interp(moments, times + window / 2.0, np.array([rate for _, rate in rows]))
    rates *= shape.mean_load / shape.service_seconds / rates.mean()
    return from_rate(name, rates, step, shape, np.random.default_rng(shape.seed))


def _from_requests(name: str, requests: list[tuple[float, int]], shape: Shape) -> Workload:
    requests.sort()
    arrivals = np.array([moment for moment, _ in requests])
    arrivals -= arrivals[0]
    tokens = np.maximum(1.0, np.array([count for _, count in requests], dtype=np.float64))
    duration = float(np.ceil(arrivals[-1] / 60.0) * 60.0)
    service = tokens * (shape.mean_load * duration / tokens.sum())
    return make_workload(name, arrivals, service, duration)


def _seconds(timestamp: str) -> float:
    # Seven digits of a second are one more than fromisoformat takes.
    return datetime.fromisoformat(timestamp[:26] + "+00:00").timestamp()
