"""Administering accounts through the API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli.jobs import connect, target_options
from app.client import ClientError
from app.scopes import SCOPES

BASE = "/v1/admin"


@click.group()
def admin() -> None:
    """Tenants, users, API clients, budgets, limits and the audit log."""


def _call(
    target: dict[str, Any], method: str, path: str, *,
    body: dict[str, Any] | None = None, query: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    client = connect(target["url"], target["token"], target["data"])
    try:
        return client.call(method, BASE + path, body=body, query=query)
    except ClientError as error:
        raise click.ClickException(str(error)) from None


def _show(rows: list[dict[str, Any]]) -> None:
    if not rows:
        click.echo("none")
        return
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*("-" if value is None else escape(str(value)) for value in row.values()))
    Console().print(table)


@admin.command("tenants")
@target_options
def tenants(**target: Any) -> None:
    """List tenants."""
    _show(_call(target, "GET", "/tenants")["data"])


@admin.command("create-tenant")
@click.argument("name")
@click.option("--title", default="")
@target_options
def create_tenant(name: str, title: str, **target: Any) -> None:
    """Make a tenant."""
    _show([_call(target, "POST", "/tenants", body={"name": name, "title": title})])


@admin.command("set-tenant")
@click.argument("tenant")
@click.option("--disabled/--enabled", required=True)
@target_options
def set_tenant(tenant: str, disabled: bool, **target: Any) -> None:
    """Disable a tenant, or allow it again."""
    _show([_call(target, "PATCH", f"/tenants/{tenant}", body={"disabled": disabled})])


@admin.command("users")
@click.argument("tenant")
@target_options
def users(tenant: str, **target: Any) -> None:
    """List a tenant's users."""
    _show(_call(target, "GET", f"/tenants/{tenant}/users")["data"])


@admin.command("create-user")
@click.argument("tenant")
@click.argument("name")
@click.option("--role", type=click.Choice(["user", "admin"]), default="user", show_default=True)
@target_options
def create_user(tenant: str, name: str, role: str, **target: Any) -> None:
    """Make a user."""
    body = {"name": name, "role": role}
    _show([_call(target, "POST", f"/tenants/{tenant}/users", body=body)])


@admin.command("set-user")
@click.argument("tenant")
@click.argument("user")
@click.option("--role", type=click.Choice(["user", "admin"]))
@click.option("--disabled/--enabled", default=None)
@target_options
def set_user(
    tenant: str, user: str, role: str | None, disabled: bool | None, **target: Any
) -> None:
    """Change a user; the tokens that it holds are revoked."""
    body = {k: v for k, v in {"role": role, "disabled": disabled}.items() if v is not None}
    _show([_call(target, "PATCH", f"/tenants/{tenant}/users/{user}", body=body)])


@admin.command("clients")
@click.argument("tenant")
@target_options
def clients(tenant: str, **target: Any) -> None:
    """List a tenant's API clients."""
    _show(_call(target, "GET", f"/tenants/{tenant}/clients")["data"])


@admin.command("create-client")
@click.argument("tenant")
@click.argument("user")
@click.option("--title", default="")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES))
@target_options
def create_client(
    tenant: str, user: str, title: str, scopes: tuple[str, ...], **target: Any
) -> None:
    """Make an API client; its secret is shown once."""
    body = {"user": user, "title": title, "scopes": list(scopes) or None}
    _secret(_call(target, "POST", f"/tenants/{tenant}/clients", body=body))


@admin.command("rotate-client")
@click.argument("tenant")
@click.argument("client_id")
@target_options
def rotate_client(tenant: str, client_id: str, **target: Any) -> None:
    """Give an API client a new secret, shown once; the old one and its tokens end."""
    _secret(_call(target, "POST", f"/tenants/{tenant}/clients/{client_id}/rotate"))


@admin.command("remove-client")
@click.argument("tenant")
@click.argument("client_id")
@target_options
def remove_client(tenant: str, client_id: str, **target: Any) -> None:
    """Remove an API client; its tokens end."""
    _call(target, "DELETE", f"/tenants/{tenant}/clients/{client_id}")
    click.echo("removed")


@admin.command("budgets")
@click.argument("tenant")
@target_options
def budgets(tenant: str, **target: Any) -> None:
    """List budgets."""
    _show(_call(target, "GET", f"/tenants/{tenant}/budgets")["data"])


@admin.command("set-budget")
@click.argument("tenant")
@click.option("--user", default="", help="`*`: each without one of their own. Default: all.")
@click.option("--day-dollars", type=float)
@click.option("--month-dollars", type=float)
@click.option("--day-tokens", type=int)
@click.option("--month-tokens", type=int)
@target_options
def set_budget(tenant: str, user: str, url: str | None, token: str | None, data: Path,
               **bounds: float | None) -> None:  # fmt: skip
    """Set a budget; what is left out has no bound."""
    target = {"url": url, "token": token, "data": data}
    path = f"/tenants/{tenant}/budgets"
    _show([_call(target, "PUT", path, body=bounds, query={"user": user})])


@admin.command("limits")
@click.argument("tenant")
@target_options
def limits(tenant: str, **target: Any) -> None:
    """List limits."""
    _show(_call(target, "GET", f"/tenants/{tenant}/limits")["data"])


@admin.command("set-limits")
@click.argument("tenant")
@click.option("--user", default="", help="`*`: each without one of their own. Default: all.")
@click.option("--tokens-per-minute", type=int)
@click.option("--open-jobs", type=int)
@click.option("--waiting-jobs", type=int)
@target_options
def set_limits(tenant: str, user: str, url: str | None, token: str | None, data: Path,
               **bounds: int | None) -> None:  # fmt: skip
    """Set limits; what is left out has no bound of its own."""
    target = {"url": url, "token": token, "data": data}
    path = f"/tenants/{tenant}/limits"
    _show([_call(target, "PUT", path, body=bounds, query={"user": user})])


@admin.command("audit")
@click.option("--tenant", help="Your own if left out.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True)
@target_options
def audit(tenant: str | None, limit: int, **target: Any) -> None:
    """Read the audit log, newest first."""
    query: dict[str, Any] = {"limit": limit}
    if tenant:
        query["tenant"] = tenant
    _show(_call(target, "GET", "/audit", query=query)["data"])


def _secret(made: dict[str, Any]) -> None:
    click.echo(f"client id      {made['client_id']}")
    click.echo(f"client secret  {made['client_secret']}   (kept nowhere: note it now)")
    click.echo(f"scopes         {' '.join(made['scopes'])}")
