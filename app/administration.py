"""What administrators do: who may, on which tenant, and that it is written down.

Every change and its entry in the audit log are one transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flask import g
from sqlalchemy.orm import Session

from app.identity import NAME, Caller, caller
from app.problems import FieldFault, Problem
from app.scopes import PLATFORM
from app.services import services
from tasks.accounts import now_ms
from tasks.models import AuditEntry, Tenant, User


@dataclass(frozen=True)
class Change:
    """A transaction of one administrator."""

    session: Session
    who: Caller

    def note(self, action: str, tenant: str, subject: str, **detail: Any) -> None:
        """Add to the audit log. `detail` must hold no secret."""
        self.session.add(
            AuditEntry(
                at=now_ms(),
                actor=self.who.user,
                actor_tenant=self.who.tenant,
                action=action,
                tenant=tenant,
                subject=subject,
                detail=detail,
                request_id=g.request_id,
            )
        )


@contextmanager
def change() -> Iterator[Change]:
    """Do and note something. Raises DatabaseDownError."""
    with services().database.session() as session:
        yield Change(session, caller())


def require_platform() -> None:
    """Raises Problem 403 for administrators of a single tenant."""
    if PLATFORM not in caller().scopes:
        raise Problem(403, "insufficient-scope", f"The token lacks the scope `{PLATFORM}`.")


def may_see(tenant: str) -> None:
    """Raises Problem 404 for a tenant that the caller does not administer."""
    who = caller()
    if tenant != who.tenant and PLATFORM not in who.scopes:
        raise unknown_tenant()


def find_tenant(session: Session, name: str) -> Tenant:
    """A tenant that the caller administers. Raises Problem 404."""
    may_see(name)
    found = session.get(Tenant, name)
    if found is None:
        raise unknown_tenant()
    return found


def find_user(session: Session, tenant: str, name: str) -> User:
    """A user of a tenant that the caller administers. Raises Problem 404."""
    find_tenant(session, tenant)
    found = session.get(User, (tenant, name))
    if found is None:
        raise Problem(404, "unknown-user", "No such user.")
    return found


def unknown_tenant() -> Problem:
    """The same for a tenant that does not exist and for one of others."""
    return Problem(404, "unknown-tenant", "No such tenant.")


def check_name(name: str) -> None:
    """Raises Problem 422 for what cannot be the name of a tenant or user."""
    if not NAME.fullmatch(name):
        message = f"must match {NAME.pattern}"
        raise Problem(
            422, "invalid-request", f"name: {message}",
            errors=[FieldFault(field="name", message=message)],
        )  # fmt: skip


def exists(what: str) -> Problem:
    """Something of that name is there already."""
    return Problem(409, "already-exists", f"There is a {what} of that name already.")
