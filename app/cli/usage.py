"""Usage in the terminal."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli.jobs import connect, target_options
from app.client import ClientError

BAR_CELLS = 24


@click.command()
@click.option(
    "--by",
    default="day",
    show_default=True,
    help="Some of day, model, user, provider, priority, state, separated by commas.",
)
@click.option("--days", type=click.IntRange(min=1, max=3660), default=30, show_default=True)
@click.option("--user", help="Of this user only.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@target_options
def usage(by: str, days: int, user: str | None, as_csv: bool, url: str | None,
          token: str | None, data: Path) -> None:  # fmt: skip
    """Show what jobs used and cost."""
    last = dt.datetime.now(dt.UTC).date()
    query: dict[str, Any] = {
        "by": by,
        "first": (last - dt.timedelta(days=days - 1)).isoformat(),
        "last": last.isoformat(),
    }
    if user:
        query["user"] = user
    client = connect(url, token, data)
    try:
        if as_csv:
            click.echo(client.text("/v1/usage", query={**query, "format": "csv"}), nl=False)
            return
        found = client.call("GET", "/v1/usage", query=query)
    except ClientError as error:
        raise click.ClickException(str(error)) from None
    Console().print(draw(found, by.split(",")))


def draw(found: dict[str, Any], names: list[str]) -> Table:
    """The sums as a table, with a bar for each group's share of the cost."""
    table = Table(title=f"{found['first']} to {found['last']} (UTC)", show_footer=True)
    total = found["total"]
    for place, name in enumerate(names):
        table.add_column(name, footer="total" if place == 0 else "")
    for heading, value in (
        ("jobs", f"{total['jobs']:,}"),
        ("from cache", _share(total)),
        ("tokens in", f"{total['input_tokens']:,}"),
        ("tokens out", f"{total['output_tokens']:,}"),
        ("cost $", f"{total['cost']:,.4f}"),
        ("saved $", f"{total['saved']:,.4f}"),
    ):
        table.add_column(heading, footer=value, justify="right")
    table.add_column("")
    most = max((group["cost"] for group in found["data"]), default=0.0)
    for group in found["data"]:
        cells = round(BAR_CELLS * group["cost"] / most) if most else 0
        table.add_row(
            *(escape(group["group"][name]) or "-" for name in names),
            f"{group['jobs']:,}",
            _share(group),
            f"{group['input_tokens']:,}",
            f"{group['output_tokens']:,}",
            f"{group['cost']:,.4f}",
            f"{group['saved']:,.4f}",
            f"[cyan]{'█' * cells}[/]",
        )
    return table


def _share(group: dict[str, Any]) -> str:
    return f"{group['cache_hits'] / group['jobs']:.0%}" if group["jobs"] else "-"
