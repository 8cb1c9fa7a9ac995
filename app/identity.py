"""Who is calling: JWTs with `sub` (user), `tenant` and `role`."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from flask import Flask, current_app, g, request
from flask_jwt_extended import (
    JWTManager,
    create_access_token,
    create_refresh_token,
    verify_jwt_in_request,
)
from flask_jwt_extended.exceptions import JWTExtendedException, NoAuthorizationError
from jwt.exceptions import ExpiredSignatureError, PyJWTError
from pydantic import SecretStr

from app.problems import Problem
from app.scopes import SCOPES, USER_SCOPES, needed_scope, scopes_of
from app.verified import VerifiedTokens
from config.settings import Settings

ALGORITHM = "HS256"
ROLES = ("user", "admin")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")  # of tenants and users


@dataclass(frozen=True)
class Caller:
    """The owner of the token."""

    user: str
    tenant: str
    role: str
    token_id: str
    scopes: frozenset[str] = USER_SCOPES

    @property
    def admin(self) -> bool:
        """Whether the caller may administer its tenant."""
        return self.role == "admin"


def key_id(secret: SecretStr) -> str:
    """The `kid` of a signing key: enough of its hash to tell keys apart, not to find them."""
    return hashlib.sha256(b"kid:" + secret.get_secret_value().encode()).hexdigest()[:12]


def init_identity(app: Flask, settings: Settings) -> None:
    """Set up token signing and verification; several keys verify, the first one signs."""
    if settings.jwt_secret_key is None:
        raise SystemExit(
            "inferenceflow: bad setting: JWT_SECRET_KEY: must be set to a secret of at least "
            "32 bytes, for instance the output of `openssl rand -hex 32`"
        )
    keys = {key_id(key): key for key in (settings.jwt_secret_key, *settings.jwt_previous_keys)}
    app.config.update(
        JWT_ALGORITHM=ALGORITHM,
        JWT_DECODE_ALGORITHMS=[ALGORITHM],  # never what the token's own header asks for
        JWT_TOKEN_LOCATION=["headers"],
        JWT_ACCESS_TOKEN_EXPIRES=timedelta(seconds=settings.jwt_expires_seconds),
        JWT_SECRET_KEY=settings.jwt_secret_key.get_secret_value(),
        PROPAGATE_EXCEPTIONS=False,
    )
    manager = JWTManager(app)
    app.extensions["verified_tokens"] = VerifiedTokens[Caller]()

    @manager.decode_key_loader
    def _decode_key(headers: dict[str, Any], _claims: dict[str, Any]) -> str:
        key = keys.get(headers.get("kid", ""), settings.jwt_secret_key)
        assert key is not None  # noqa: S101 - checked above
        return key.get_secret_value()


def mint_token(
    settings: Settings,
    *,
    user: str,
    tenant: str,
    role: str = "user",
    expires: timedelta,
    scopes: Iterable[str] | None = None,
    claims: Mapping[str, Any] | None = None,
    refresh: bool = False,
) -> str:
    """A signed token; needs an app context. Raises ValueError for a bad name, role or scope.

    `scopes`: None for all that the role has by itself. `claims`: more claims of ours. `refresh`:
    a token that only gets new tokens.
    """
    if settings.jwt_secret_key is None:
        raise ValueError("JWT_SECRET_KEY is not set")
    for what, name in (("user", user), ("tenant", tenant)):
        if not NAME.fullmatch(name):
            raise ValueError(f"{what} must match {NAME.pattern}")
    if role not in ROLES:
        raise ValueError(f"role must be one of {', '.join(ROLES)}")
    # With fractions of a second: a token made right after a revocation must not fall under it.
    content: dict[str, Any] = {"tenant": tenant, "role": role, "iat": time.time(), **(claims or {})}
    if scopes is not None:
        if unknown := set(scopes) - set(SCOPES):
            raise ValueError(f"no such scope: {', '.join(sorted(unknown))}")
        content["scope"] = " ".join(sorted(scopes))
    create = create_refresh_token if refresh else create_access_token
    signed: str = create(
        identity=user,
        additional_claims=content,
        additional_headers={"kid": key_id(settings.jwt_secret_key)},
        expires_delta=expires,
    )
    return signed


def authenticate() -> Caller:
    """The caller of this request. Raises Problem 401, each cause with words of its own.

    The signature of a token is checked when it is first seen, its revocation every time.
    """
    tokens: VerifiedTokens[Caller] = current_app.extensions["verified_tokens"]
    credentials = request.headers.get("Authorization", "")
    known = tokens.find(credentials)
    if known is None:
        known = _verify()
        tokens.keep(credentials, *known)
    who, claims = known
    if current_app.extensions["inferenceflow"].revocations.refused(claims):
        raise _unauthorized("token-revoked", "The token was revoked. Get a new one.")
    return who


def _verify() -> tuple[Caller, Mapping[str, Any]]:
    try:
        verified = verify_jwt_in_request()
    except ExpiredSignatureError:
        raise _unauthorized("token-expired", "The token has expired. Get a new one.") from None
    except NoAuthorizationError:
        raise _unauthorized(
            "token-missing", "Send a token in the header `Authorization: Bearer ...`."
        ) from None
    except (JWTExtendedException, PyJWTError):
        raise _unauthorized(
            "token-invalid",
            "The token is not valid here. Check that it is whole.",
        ) from None
    assert verified is not None  # noqa: S101 - not optional
    claims = verified[1]
    user, tenant, role = claims["sub"], claims.get("tenant"), claims.get("role")
    if not (_is_name(user) and _is_name(tenant) and role in ROLES):
        raise _unauthorized("token-invalid", "The token lacks a valid `sub`, `tenant` or `role`.")
    who = Caller(
        user=str(user),
        tenant=str(tenant),
        role=str(role),
        token_id=claims["jti"],
        scopes=scopes_of(str(role), claims.get("scope")),
    )
    return who, claims


def authorize(who: Caller, method: str, path: str) -> None:
    """Raises Problem 403 when the caller's token lacks the scope that the call needs."""
    needed = needed_scope(method, path)
    if needed is not None and needed not in who.scopes:
        raise Problem(
            403,
            "insufficient-scope",
            f"The token lacks the scope `{needed}`.",
            headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{needed}"'},
        )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def caller() -> Caller:
    """The authenticated caller of this request."""
    found: Caller = g.caller
    return found


def _unauthorized(kind: str, detail: str) -> Problem:
    return Problem(401, kind, detail, headers={"WWW-Authenticate": f'Bearer error="{kind}"'})
