"""The table of docs/scaling.md: every policy on two traces at three cold starts.

    python -m benchmarks.scaler_traces --page docs/scaling.md

takes about ten minutes on one core; the rows are printed as Markdown as they are ready.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click

BEGIN, END = "<!-- table -->", "<!-- end of table -->"
TRACES = Path(__file__).parent / "data" / "traces"


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("var/scaler"))
@click.option("--trace", "traces", multiple=True, default=["m-small", "m-mid"])
@click.option("--cold-start", "cold_starts", multiple=True, type=int, default=[60, 180, 480])
@click.option(
    "--page",
    type=click.Path(path_type=Path, exists=True),
    help="Also put the table between the marks in this Markdown file.",
)
def main(
    out: Path, traces: tuple[str, ...], cold_starts: tuple[int, ...], page: Path | None
) -> None:
    """Run the simulations one after another, each as a user would."""
    out.mkdir(parents=True, exist_ok=True)
    lines = [
        "| trace | cold start | policy | replica-hours | violations | p95 wait | actions |",
        "|---|---|---|---|---|---|---|",
    ]
    click.echo("\n".join(lines))
    for trace in traces:
        for cold_start in cold_starts:
            command = [
                *(sys.executable, "-m", "workers.scaler.simulate"),
                str(TRACES / f"servegen_{trace}_rate600s.csv"),
                *("--cold-start", str(cold_start), "--json", "--out", str(out)),
                *("--prior-cache", str(out / "priors")),
            ]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            (out / f"{trace}-{cold_start}s.json").write_text(done.stdout)
            for row in json.loads(done.stdout)["policies"]:
                lines.append(
                    f"| {trace} | {cold_start} s | {row['policy']} | {row['replica_hours']:.0f} "
                    f"| {row['violation_rate']:.2%} | {row['p95_wait_seconds']:.1f} s "
                    f"| {row['actions']} |"
                )
                click.echo(lines[-1])
    if page is not None:
        before, _, rest = page.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        page.write_text("\n".join([before + BEGIN, *lines, END + after]))


if __name__ == "__main__":
    main()
