"""The second half of an experiment as a picture: load, forecast band, replicas, waits."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from workers.scaler.simulate.engine import Run
from workers.scaler.simulate.policies import InferenceFlow
from workers.scaler.simulate.trace import Floats
from workers.scaler.simulate.tune import Experiment, Outcome

POINTS = 1500
SHOWN = ("reactive_tuned", "oracle", "inferenceflow")  # the last one is drawn on top
COLOURS = {"inferenceflow": "#0b6e4f", "reactive_tuned": "#c44536", "oracle": "#8d99ae"}
HOUR = 3600.0


def write_plots(
    experiment: Experiment, outcomes: Sequence[Outcome], png: Path
) -> tuple[Path, Path]:
    """Write `png`, and a page that needs no network beside it; both paths."""
    import matplotlib as mpl

    mpl.use("Agg")
    figure = _draw(experiment, outcomes)
    png.parent.mkdir(parents=True, exist_ok=True)
    page = png.with_suffix(".html")
    figure.savefig(png, format="png", dpi=110)
    svg = io.StringIO()
    figure.savefig(svg, format="svg")
    picture = svg.getvalue()
    page.write_text(_page(experiment, outcomes, picture[picture.index("<svg") :]))
    return png, page


def _draw(experiment: Experiment, outcomes: Sequence[Outcome]) -> Any:
    from matplotlib.figure import Figure

    by_name = {one.policy: one for one in outcomes}
    shown = {policy: by_name[policy] for policy in SHOWN}
    figure = Figure(figsize=(13, 9), layout="constrained")
    load, replicas, waits = figure.subplots(3, 1, sharex=True)
    _draw_load(load, experiment, shown["inferenceflow"])
    for policy, outcome in shown.items():
        samples = _thin(outcome.reported.samples)
        replicas.step(
            [sample.at / HOUR for sample in samples],
            [sample.desired for sample in samples],
            where="post",
            color=COLOURS[policy],
            lw=0.9,
            label=f"{policy}: {outcome.reported.replica_hours:.0f} replica-hours, "
            f"{outcome.reported.violation_rate:.2%} late",
        )
        moments, highest = _wait_bins(experiment, outcome.reported)
        waits.plot(moments / HOUR, highest, color=COLOURS[policy], lw=0.8, label=policy)
    replicas.set_ylabel("replicas")
    replicas.legend(loc="upper left", fontsize=8)
    waits.axhline(experiment.world.target_wait, color="black", lw=0.6, ls="--")
    waits.set_yscale("symlog", linthresh=1.0)
    waits.set_ylim(bottom=0.0)
    waits.set_ylabel("95th percentile of waits in 10 min, s")
    waits.set_xlabel("hours of the trace")
    waits.legend(loc="upper left", fontsize=8)
    figure.suptitle(
        f"{experiment.workload.name}, cold start {experiment.knobs.cold_start_seconds:.0f} s"
    )
    return figure


def _draw_load(axes: Any, experiment: Experiment, ours: Outcome) -> None:
    """The true load, and what was forecast for each moment one horizon before."""
    counts = np.array(experiment.workload.minute_counts)
    minutes = max(1, len(counts) // 2 // POINTS)
    second = counts[len(counts) // 2 :]
    second = second[: len(second) // minutes * minutes].reshape(-1, minutes).mean(axis=1)
    service = float(experiment.workload.service.mean())
    moments = experiment.half + (np.arange(len(second)) + 0.5) * 60.0 * minutes
    axes.plot(moments / HOUR, second / 60.0 * service, color="black", lw=0.7, label="load")
    if isinstance(ours.instance, InferenceFlow):
        forecasts = [
            (one.signals.at + one.outlook.horizon, one.outlook, one.signals.seconds_per_unit)
            for one in _thin(ours.instance.decisions)
            if one.outlook is not None and one.signals.at >= experiment.half
        ]
        axes.fill_between(
            [moment / HOUR for moment, _, _ in forecasts],
            [outlook.p50 * seconds for _, outlook, seconds in forecasts],
            [outlook.upper * seconds for _, outlook, seconds in forecasts],
            color=COLOURS["inferenceflow"],
            alpha=0.35,
            lw=0,
            label="forecast, median to upper quantile",
        )
    axes.set_ylabel("busy slots")
    axes.legend(loc="upper left", fontsize=8)


def _wait_bins(experiment: Experiment, run: Run) -> tuple[Floats, Floats]:
    """Middles of ten-minute bins, and the 95th percentile of the waits of their jobs."""
    arrivals = experiment.workload.arrivals
    arrivals = arrivals[len(arrivals) - len(run.waits) :]
    edges = np.arange(experiment.half, experiment.workload.duration + 600.0, 600.0)
    cuts = np.searchsorted(arrivals, edges)
    found = [
        float(np.percentile(run.waits[low:high], 95)) if high > low else 0.0
        for low, high in pairwise(cuts)
    ]
    return edges[:-1] + 300.0, np.array(found)


def _thin(items: list[Any]) -> list[Any]:
    return items[:: max(1, len(items) // POINTS)]


def _page(experiment: Experiment, outcomes: Sequence[Outcome], svg: str) -> str:
    title = html.escape(
        f"{experiment.workload.name}, cold start {experiment.knobs.cold_start_seconds:.0f} s"
    )
    rows = "".join(
        f"<tr><td>{html.escape(one.policy)}</td><td>{one.reported.replica_hours:.1f}</td>"
        f"<td>{one.reported.violation_rate:.2%}</td><td>{one.reported.p95_wait:.1f} s</td>"
        f"<td>{one.reported.actions}</td></tr>"
        for one in outcomes
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:15px sans-serif;margin:2em}td,th{padding:.2em 1em;text-align:right}"
        "td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}</style>"
        f"<h1>{title}</h1><table><tr><th>policy</th><th>replica-hours</th><th>violations</th>"
        f"<th>95th percentile of waits</th><th>actions</th></tr>{rows}</table>{svg}</html>"
    )
