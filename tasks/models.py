"""The tables: who may call, how much, and what it cost.

Times are milliseconds since 1970 (UTC) as in the job ledger; money is in nano-dollars
(tasks/money.py). Tenants and users are named as in the tokens. Rows of usage and audit_log name
tenants without a foreign key: what was spent and done stays true when a tenant is deleted.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Date,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    Text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

EVERY_USER = "*"  # a budget or limit of each user who has none of their own
WHOLE_TENANT = ""  # a budget or limit of all users together


class Base(DeclarativeBase):
    """The schema."""

    type_annotation_map = {int: BigInteger, str: Text, dict[str, Any]: JSON}  # noqa: RUF012


class Tenant(Base):
    """A customer or team."""

    __tablename__ = "tenants"

    name: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(default="")
    disabled: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[int]


class User(Base):
    """Somebody of a tenant."""

    __tablename__ = "users"

    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str] = mapped_column(default="user")
    disabled: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[int]


class ApiClient(Base):
    """A program that gets tokens for a user by its id and secret."""

    __tablename__ = "api_clients"
    __table_args__ = (ForeignKeyConstraint(["tenant", "user"], ["users.tenant", "users.name"]),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    user: Mapped[str]
    title: Mapped[str] = mapped_column(default="")
    scopes: Mapped[str]  # separated by spaces, as in a token
    secret_hash: Mapped[str]
    disabled: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[int]


class Revocation(Base):
    """Tokens that are no longer good, by what they have in common."""

    __tablename__ = "revocations"

    subject: Mapped[str] = mapped_column(primary_key=True)  # see app/revocation.py
    issued_until: Mapped[int]  # tokens issued up to then are refused
    expires_at: Mapped[int]  # when every such token has expired by itself


class Budget(Base):
    """The most that may be spent; None: no bound."""

    __tablename__ = "budgets"

    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"), primary_key=True)
    user: Mapped[str] = mapped_column(primary_key=True)  # or WHOLE_TENANT, EVERY_USER
    day_nano: Mapped[int | None]
    month_nano: Mapped[int | None]
    day_tokens: Mapped[int | None]
    month_tokens: Mapped[int | None]


class Limit(Base):
    """The most that may be done at a time; None: no bound but the global one."""

    __tablename__ = "limits"

    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"), primary_key=True)
    user: Mapped[str] = mapped_column(primary_key=True)  # or WHOLE_TENANT, EVERY_USER
    tokens_per_minute: Mapped[int | None]
    open_jobs: Mapped[int | None]
    waiting_jobs: Mapped[int | None]  # of the whole tenant only


class UsageRow(Base):
    """One job that ended."""

    __tablename__ = "usage"
    __table_args__ = (
        Index("usage_tenant_day", "tenant", "day"),
        Index("usage_tenant_user_day", "tenant", "user", "day"),
    )

    job_id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    user: Mapped[str]
    day: Mapped[dt.date] = mapped_column(Date)  # of its end, UTC
    state: Mapped[str]
    priority: Mapped[str]
    provider: Mapped[str]
    model: Mapped[str]
    input_tokens: Mapped[int]
    output_tokens: Mapped[int]
    prompt_cached_tokens: Mapped[int]
    cost_nano: Mapped[int]
    saved_nano: Mapped[int]
    cache_layer: Mapped[str]  # '' when a provider answered
    queued_ms: Mapped[int]
    cache_ms: Mapped[int]
    provider_ms: Mapped[int]
    total_ms: Mapped[int]
    created_at: Mapped[int]
    finished_at: Mapped[int]


class WebhookEndpoint(Base):
    """Where a tenant's events go."""

    __tablename__ = "webhook_endpoints"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"), index=True)
    url: Mapped[str]
    events: Mapped[str]  # separated by spaces; '' for all
    disabled: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[int]


class AuditEntry(Base):
    """One thing that an administrator did."""

    __tablename__ = "audit_log"
    __table_args__ = (Index("audit_log_tenant", "tenant", "id"),)

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    at: Mapped[int]
    actor: Mapped[str]
    actor_tenant: Mapped[str]
    action: Mapped[str]
    tenant: Mapped[str]
    subject: Mapped[str]
    detail: Mapped[dict[str, Any]]
    request_id: Mapped[str]
