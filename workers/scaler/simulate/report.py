"""The outcomes of an experiment as a table and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from workers.scaler.simulate.engine import Run
from workers.scaler.simulate.tune import Experiment, Outcome


def as_json(
    experiment: Experiment, outcomes: Sequence[Outcome], plots: Sequence[str]
) -> dict[str, Any]:
    """What `--json` prints. A wait without end (a job that nobody will ever start) is null."""
    return {
        "trace": experiment.workload.name,
        "cold_start_seconds": experiment.knobs.cold_start_seconds,
        "tick_seconds": experiment.world.tick,
        "slots_per_replica": experiment.world.slots,
        "target_wait_seconds": experiment.world.target_wait,
        "violation_target": experiment.knobs.violation_target,
        "budget": experiment.budget,
        "tuned_hours": experiment.half / 3600.0,
        "reported_hours": (experiment.workload.duration - experiment.half) / 3600.0,
        "policies": [
            {
                "policy": outcome.policy,
                **_numbers(outcome.reported),
                "settings": outcome.settings,
                "tuned": _numbers(outcome.tuned),
            }
            for outcome in outcomes
        ],
        "plots": list(plots),
    }


def print_table(experiment: Experiment, outcomes: Sequence[Outcome], console: Console) -> None:
    """The same for people."""
    table = Table(
        title=f"{experiment.workload.name}, cold start {experiment.knobs.cold_start_seconds:.0f} s"
    )
    table.add_column("policy", no_wrap=True)
    for name in ("replica-hours", "violations", "p95 wait", "actions"):
        table.add_column(name, justify="right", no_wrap=True)
    for outcome in outcomes:
        run = outcome.reported
        table.add_row(
            outcome.policy,
            f"{run.replica_hours:.1f}",
            f"{run.violation_rate:.2%}",
            f"{run.p95_wait:.1f} s",
            str(run.actions),
        )
    console.print(table)
    console.print("Second half of the trace; tuned on the first half to:")
    for outcome in outcomes:
        tuned = ", ".join(f"{name} {value:.3g}" for name, value in outcome.settings.items())
        console.print(f"  {outcome.policy}: {tuned or 'nothing to tune'}")


def _numbers(run: Run) -> dict[str, float | int | None]:
    return {
        "replica_hours": round(run.replica_hours, 3),
        "violation_rate": round(run.violation_rate, 6),
        "p95_wait_seconds": round(run.p95_wait, 3) if math.isfinite(run.p95_wait) else None,
        "actions": run.actions,
    }
