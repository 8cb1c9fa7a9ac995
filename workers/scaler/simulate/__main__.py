"""`python -m workers.scaler.simulate TRACE`: what `inferenceflow scaler simulate` runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click
from rich.console import Console

from workers.scaler.knobs import QueueKnobs
from workers.scaler.simulate.engine import World
from workers.scaler.simulate.plot import write_plots
from workers.scaler.simulate.priors import fit_priors
from workers.scaler.simulate.report import as_json, print_table
from workers.scaler.simulate.trace import Shape, TraceError, load_trace
from workers.scaler.simulate.tune import Experiment, compare


@click.command()
@click.argument("trace", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--cold-start", default=60.0, show_default=True, help="Seconds.", type=float)
@click.option("--json", "as_text", is_flag=True, help="Print one JSON object, not a table.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("var/scaler"),
    show_default=True,
    help="Folder for the plots, where --plot names none.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The PNG to write; an HTML page is written beside it.",
)
@click.option("--no-plot", is_flag=True, help="Write neither.")
@click.option("--budget", default=16, show_default=True, help="Candidates per tuned policy.")
@click.option("--mean-load", default=16.0, show_default=True, help="Busy slots on average.")
@click.option("--service-seconds", default=10.0, show_default=True, help="Mean time of a job.")
@click.option("--slots", default=4, show_default=True, help="Jobs that one replica runs at once.")
@click.option("--target-wait", default=15.0, show_default=True, help="Longest good wait, seconds.")
@click.option("--violation-target", default=0.01, show_default=True, help="Share of late jobs.")
@click.option("--tick", default=60.0, show_default=True, help="Seconds between decisions.")
@click.option("--seed", default=1, show_default=True)
@click.option(
    "--prior-cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to keep the Prophet fits in, for the next run over the same trace.",
)
def main(
    trace: Path,
    cold_start: float,
    as_text: bool,
    out: Path,
    plot: Path | None,
    no_plot: bool,
    budget: int,
    mean_load: float,
    service_seconds: float,
    slots: int,
    target_wait: float,
    violation_target: float,
    tick: float,
    seed: int,
    prior_cache: Path | None,
) -> None:
    """Replay TRACE through the scaler's decision code and through other ways to scale.

    TRACE is a CSV of rates (t_s, rate_rps) or of requests (TIMESTAMP, ..., GeneratedTokens). All
    policies are tuned on its first half and reported on its second.
    """
    try:
        workload = load_trace(
            trace, Shape(mean_load=mean_load, service_seconds=service_seconds, seed=seed)
        )
    except (TraceError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    peak = max(workload.minute_counts) / 60.0 * float(workload.service.mean())
    knobs = QueueKnobs(
        slots_per_replica=slots,
        cold_start_seconds=cold_start,
        tick_seconds=tick,
        target_wait_seconds=target_wait,
        violation_target=violation_target,
        max_replicas=max(10, math.ceil(3.0 * peak / slots)),
    )
    world = World(
        cold_start=lambda _moment: cold_start,
        slots=slots,
        tick=tick,
        target_wait=target_wait,
        initial_replicas=math.ceil(mean_load / slots) + 1,
        stuck_after=knobs.stuck_after_seconds,
    )
    priors = fit_priors(workload, knobs.min_history_seconds, cache=prior_cache)
    experiment = Experiment(workload, priors, world, knobs, budget)
    outcomes = compare(experiment)
    png = plot or out / f"{workload.name}-{cold_start:.0f}s.png"
    plots = [] if no_plot else [str(path) for path in write_plots(experiment, outcomes, png)]
    if as_text:
        click.echo(json.dumps(as_json(experiment, outcomes, plots), allow_nan=False))
        return
    console = Console()
    print_table(experiment, outcomes, console)
    for path in plots:
        console.print(f"plot: {path}")


if __name__ == "__main__":
    main()
