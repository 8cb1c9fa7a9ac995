"""What a token allows: scopes, given by role or narrowed for one client."""

from __future__ import annotations

READ, WRITE, USAGE = "jobs:read", "jobs:write", "usage:read"
ADMIN = "admin"  # users, clients, user budgets and the audit log of one's own tenant
PLATFORM = "platform"  # every tenant: their existence, budgets and limits; the scaler

SCOPES = (READ, WRITE, USAGE, ADMIN, PLATFORM)
USER_SCOPES = frozenset({READ, WRITE, USAGE})
ADMIN_SCOPES = USER_SCOPES | {ADMIN}


def scopes_of(role: str, granted: object) -> frozenset[str]:
    """A token's scopes: what was granted, or everything that its role has by itself.

    PLATFORM is never implied. A user's token cannot hold what only administrators may have.
    """
    if not isinstance(granted, str):
        return ADMIN_SCOPES if role == "admin" else USER_SCOPES
    asked = frozenset(granted.split()) & frozenset(SCOPES)
    return asked if role == "admin" else asked & USER_SCOPES


def needed_scope(method: str, path: str) -> str | None:
    """The scope that a call needs; None: any valid token."""
    if path.startswith("/v1/admin"):
        return ADMIN
    if path.startswith("/v1/usage"):
        return USAGE
    if path.startswith("/v1/auth"):
        return None
    if path == "/v1/webhooks/default-secret":
        return WRITE  # who has it can sign messages
    return READ if method in ("GET", "HEAD", "OPTIONS") else WRITE
