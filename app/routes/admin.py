"""Tenants, users, API clients and the audit log."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from flask import Response, current_app
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import select

from app.administration import (
    change,
    check_name,
    exists,
    find_tenant,
    find_user,
    may_see,
    require_platform,
)
from app.credentials import hash_secret, new_client_id, new_secret
from app.documents import Parameters, problems
from app.identity import caller
from app.problems import Problem
from app.revocation import FOREVER_MS, allow_again, revoke
from app.scopes import PLATFORM, scopes_of
from app.services import services
from tasks.accounts import now_ms
from tasks.models import ApiClient, AuditEntry, Tenant, User

ADMIN_TAG = Tag(name="Admin", description="Who may call, and what they did.")

admin_api = APIBlueprint(
    "admin",
    __name__,
    url_prefix="/v1/admin",
    abp_tags=[ADMIN_TAG],
    abp_security=[{"token": []}],
)

Name = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Title = Annotated[str, StringConstraints(max_length=200)]
READ = {"200": None, **problems(400, 404)}
CHANGED = {"200": None, **problems(404, 409)}
MADE = {"201": None, **problems(404, 409)}
REMOVED = {"204": None, **problems(404)}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TenantPath(BaseModel):
    """Names a tenant."""

    tenant: Name


class UserPath(TenantPath):
    """Names a user."""

    user: Name


class ClientPath(TenantPath):
    """Names an API client."""

    client_id: Annotated[str, StringConstraints(max_length=100)]


class NewTenant(_Body):
    """A tenant to make."""

    name: Name
    title: Title = ""


class NewUser(_Body):
    """A user to make."""

    name: Name
    role: Literal["user", "admin"] = "user"


class ChangedUser(_Body):
    """What to change of a user; what is left out stays."""

    role: Literal["user", "admin"] | None = None
    disabled: bool | None = None


class ChangedTenant(_Body):
    """What to change of a tenant; what is left out stays."""

    title: Title | None = None
    disabled: bool | None = None


class NewClient(_Body):
    """An API client to make; it acts for a user."""

    user: Name
    title: Title = ""
    scopes: list[Literal["jobs:read", "jobs:write", "usage:read", "admin", "platform"]] | None = (
        Field(default=None, description="All that the user's role has by itself, if left out.")
    )


class AuditQuery(Parameters):
    """A page of the audit log, newest first."""

    tenant: Name | None = Field(default=None, description="The caller's own, if left out.")
    before: int | None = Field(
        default=None, ge=0, le=2**63 - 1, description="The id of the last entry seen."
    )
    limit: int = Field(default=50, ge=1, le=200)


def answer(content: Any, status: int = 200) -> Response:
    """JSON."""
    return current_app.response_class(
        orjson.dumps(content), status=status, mimetype="application/json"
    )


@admin_api.get("/tenants", summary="List tenants", responses=READ)
def list_tenants() -> Response:
    """All of them for the platform's administrators, one's own for others."""
    who = caller()
    query = select(Tenant).order_by(Tenant.name)
    if PLATFORM not in who.scopes:
        query = query.where(Tenant.name == who.tenant)
    with services().database.session() as session:
        return answer({"data": [_tenant(row) for row in session.scalars(query)]})


@admin_api.post("/tenants", summary="Make a tenant", responses=MADE)
def make_tenant(body: NewTenant) -> Response:
    """Needs the scope `platform`."""
    require_platform()
    check_name(body.name)
    with change() as doing:
        if doing.session.get(Tenant, body.name):
            raise exists("tenant")
        row = Tenant(name=body.name, title=body.title, disabled=False, created_at=now_ms())
        doing.session.add(row)
        doing.note("tenant.create", body.name, body.name, title=body.title)
    return answer(_tenant(row), 201)


@admin_api.patch("/tenants/<tenant>", summary="Change a tenant", responses=CHANGED)
def change_tenant(path: TenantPath, body: ChangedTenant) -> Response:
    """Needs the scope `platform`. Disabling it refuses every token of it within a second."""
    require_platform()
    with change() as doing:
        row = find_tenant(doing.session, path.tenant)
        if body.title is not None:
            row.title = body.title
        if body.disabled is not None:
            row.disabled = body.disabled
            _disable(doing.session, f"tenant:{path.tenant}", body.disabled)
        doing.note("tenant.change", path.tenant, path.tenant, **body.model_dump(exclude_none=True))
    services().revocations.publish()
    return answer(_tenant(row))


@admin_api.get("/tenants/<tenant>/users", summary="List users", responses=READ)
def list_users(path: TenantPath) -> Response:
    """The users that were made here; a token may also name another."""
    with services().database.session() as session:
        find_tenant(session, path.tenant)
        query = select(User).where(User.tenant == path.tenant).order_by(User.name)
        return answer({"data": [_user(row) for row in session.scalars(query)]})


@admin_api.post("/tenants/<tenant>/users", summary="Make a user", responses=MADE)
def make_user(path: TenantPath, body: NewUser) -> Response:
    """A user gets tokens through API clients."""
    check_name(body.name)
    with change() as doing:
        find_tenant(doing.session, path.tenant)
        if doing.session.get(User, (path.tenant, body.name)):
            raise exists("user")
        row = User(
            tenant=path.tenant, name=body.name, role=body.role, disabled=False, created_at=now_ms()
        )
        doing.session.add(row)
        doing.note("user.create", path.tenant, body.name, role=body.role)
    return answer(_user(row), 201)


@admin_api.patch("/tenants/<tenant>/users/<user>", summary="Change a user", responses=CHANGED)
def change_user(path: UserPath, body: ChangedUser) -> Response:
    """Any change revokes the tokens that the user holds."""
    with change() as doing:
        row = find_user(doing.session, path.tenant, path.user)
        if body.role is not None:
            row.role = body.role
        if body.disabled is not None:
            row.disabled = body.disabled
        _disable(doing.session, f"user:{path.tenant}/{path.user}", row.disabled)
        doing.note("user.change", path.tenant, path.user, **body.model_dump(exclude_none=True))
    services().revocations.publish()
    return answer(_user(row))


@admin_api.get("/tenants/<tenant>/clients", summary="List API clients", responses=READ)
def list_clients(path: TenantPath) -> Response:
    """Without their secrets, which nobody can read again."""
    with services().database.session() as session:
        find_tenant(session, path.tenant)
        query = select(ApiClient).where(ApiClient.tenant == path.tenant).order_by(ApiClient.id)
        return answer({"data": [_client(row) for row in session.scalars(query)]})


@admin_api.post("/tenants/<tenant>/clients", summary="Make an API client", responses=MADE)
def make_client(path: TenantPath, body: NewClient) -> Response:
    """The answer shows the secret, this once."""
    secret = new_secret()
    with change() as doing:
        user = find_user(doing.session, path.tenant, body.user)
        granted = _grantable(user.role, body.scopes)
        row = ApiClient(
            id=new_client_id(),
            tenant=path.tenant,
            user=body.user,
            title=body.title,
            scopes=" ".join(sorted(granted)),
            secret_hash=hash_secret(secret),
            disabled=False,
            created_at=now_ms(),
        )
        doing.session.add(row)
        doing.note("client.create", path.tenant, row.id, user=body.user, scopes=row.scopes)
    return answer({**_client(row), "client_secret": secret}, 201)


@admin_api.post(
    "/tenants/<tenant>/clients/<client_id>/rotate",
    summary="Give an API client a new secret",
    responses=CHANGED,
)
def rotate_client(path: ClientPath) -> Response:
    """The old secret and every token got with it are refused from now on."""
    secret = new_secret()
    with change() as doing:
        row = _find_client(doing.session, path)
        row.secret_hash = hash_secret(secret)
        _disable(doing.session, f"client:{row.id}", row.disabled)
        doing.note("client.rotate", path.tenant, row.id)
    services().revocations.publish()
    return answer({**_client(row), "client_secret": secret})


@admin_api.delete(
    "/tenants/<tenant>/clients/<client_id>", summary="Remove an API client", responses=REMOVED
)
def remove_client(path: ClientPath) -> Response:
    """Every token got with it is refused from now on."""
    with change() as doing:
        row = _find_client(doing.session, path)
        doing.session.delete(row)
        _disable(doing.session, f"client:{row.id}", disabled=True)
        doing.note("client.remove", path.tenant, row.id, user=row.user)
    services().revocations.publish()
    return current_app.response_class(status=204)


@admin_api.get("/audit", summary="Read the audit log", responses=READ)
def read_audit(query: AuditQuery) -> Response:
    """What administrators did to a tenant, newest first."""
    tenant = query.tenant or caller().tenant
    may_see(tenant)
    rows = select(AuditEntry).where(AuditEntry.tenant == tenant).order_by(AuditEntry.id.desc())
    if query.before is not None:
        rows = rows.where(AuditEntry.id < query.before)
    with services().database.session() as session:
        found = [
            {
                "id": row.id,
                "at": row.at,
                "actor": row.actor,
                "actor_tenant": row.actor_tenant,
                "action": row.action,
                "tenant": row.tenant,
                "subject": row.subject,
                "detail": row.detail,
                "request_id": row.request_id,
            }
            for row in session.scalars(rows.limit(query.limit))
        ]
    return answer({"data": found})


def _disable(session: Any, subject: str, disabled: bool) -> None:
    """Refuse the tokens of a subject: those that exist or, while it is disabled, all."""
    now = now_ms()
    if disabled:
        revoke(session, subject, issued_until=FOREVER_MS, expires_at=FOREVER_MS)
    else:
        revoke(session, subject, issued_until=now, expires_at=FOREVER_MS)
        allow_again(session, subject, issued_until=now, expires_at=FOREVER_MS)


def _grantable(role: str, asked: list[Any] | None) -> frozenset[str]:
    """Raises Problem for scopes that the role cannot hold or the caller cannot give."""
    if asked is None:
        return scopes_of(role, None)
    if PLATFORM in asked and PLATFORM not in caller().scopes:
        raise Problem(403, "insufficient-scope", "Only who has `platform` can give it.")
    granted = scopes_of(role, " ".join(asked))
    if granted != frozenset(asked):
        raise Problem(422, "invalid-scope", f"The role {role} cannot hold all of these scopes.")
    return granted


def _find_client(session: Any, path: ClientPath) -> ApiClient:
    find_tenant(session, path.tenant)
    row = session.get(ApiClient, path.client_id)
    if row is None or row.tenant != path.tenant:
        raise Problem(404, "unknown-client", "No such API client.")
    found: ApiClient = row
    return found


def _tenant(row: Tenant) -> dict[str, Any]:
    return {
        "name": row.name,
        "title": row.title,
        "disabled": row.disabled,
        "created_at": row.created_at,
    }


def _user(row: User) -> dict[str, Any]:
    return {
        "name": row.name,
        "tenant": row.tenant,
        "role": row.role,
        "disabled": row.disabled,
        "created_at": row.created_at,
    }


def _client(row: ApiClient) -> dict[str, Any]:
    return {
        "client_id": row.id,
        "tenant": row.tenant,
        "user": row.user,
        "title": row.title,
        "scopes": row.scopes.split(),
        "created_at": row.created_at,
    }
