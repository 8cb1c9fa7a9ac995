"""Tokens for API clients: an id and secret become short-lived JWTs."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Annotated, Any, Literal

import orjson
from flask import Response, current_app
from flask_jwt_extended import decode_token
from flask_jwt_extended.exceptions import JWTExtendedException
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from jwt.exceptions import PyJWTError
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.credentials import secret_matches
from app.documents import problems
from app.identity import mint_token
from app.problems import Problem
from app.revocation import USED, revoke
from app.scopes import scopes_of
from app.services import Services, services
from tasks.accounts import now_ms
from tasks.models import ApiClient, Revocation, Tenant, User

auth_api = APIBlueprint(
    "auth",
    __name__,
    url_prefix="/v1/auth",
    abp_tags=[Tag(name="Auth", description="From a client's id and secret to tokens.")],
)

REFRESH_LIVES = 24  # a refresh token lives as many times as long as an access token
Secret = Annotated[str, StringConstraints(min_length=1, max_length=4_000)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class TokenRequest(_Body):
    """OAuth 2.0 client credentials (RFC 6749, 4.4)."""

    grant_type: Literal["client_credentials"] = "client_credentials"
    client_id: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    client_secret: Secret
    scope: str | None = Field(default=None, max_length=200, description="A part of the client's.")


class RefreshRequest(_Body):
    """A refresh token, good for one use."""

    grant_type: Literal["refresh_token"] = "refresh_token"
    refresh_token: Secret


class RevokeRequest(_Body):
    """A token of either kind (RFC 7009); whoever holds it may end it."""

    token: Secret
    token_type_hint: str | None = Field(default=None, max_length=40)


class Tokens(BaseModel):
    """A pair of tokens."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - its kind
    expires_in: int = Field(description="Seconds.")
    refresh_token: str
    scope: str


@auth_api.post(
    "/token",
    summary="Get a token for an id and secret",
    responses={"200": Tokens, **problems(400, 401, 415, 422, 429, 503)},
)
def issue_token(body: TokenRequest) -> Response:
    """The token acts for the client's user, with the client's scopes or the part asked for."""
    current = services()
    with current.database.session() as session:
        client = session.get(ApiClient, body.client_id)
        user = session.get(User, (client.tenant, client.user)) if client else None
        tenant = session.get(Tenant, client.tenant) if client else None
    # Compared also when there is nobody: the time of the answer must not tell.
    matches = secret_matches(body.client_secret, client.secret_hash if client else None)
    if not (matches and client and user and tenant):
        raise _refused("invalid-client", "No such client, or another secret.")
    if client.disabled or user.disabled or tenant.disabled:
        raise _refused("client-disabled", "The client, its user or its tenant is disabled.")
    granted = scopes_of(user.role, client.scopes)
    if body.scope is not None:
        asked = frozenset(body.scope.split())
        if not asked <= granted:
            raise Problem(422, "invalid-scope", "The client has not all of these scopes.")
        granted = asked
    return _tokens(
        current, client.tenant, client.user, user.role, granted, client.id, secrets.token_hex(12)
    )


@auth_api.post(
    "/refresh",
    summary="Get new tokens for a refresh token",
    responses={"200": Tokens, **problems(400, 401, 415, 422, 429, 503)},
)
def refresh_token(body: RefreshRequest) -> Response:
    """A refresh token is good for one use. If it comes a second time somebody has copied it: then
    every token of its login is revoked.
    """
    current = services()
    claims = _claims(body.refresh_token)
    if claims is None or claims.get("type") != "refresh":
        raise _refused("invalid-refresh-token", "Not a refresh token that is good here.")
    used = f"{USED}{claims['jti']}"
    expires = int(claims["exp"] * 1000)
    with current.database.session() as session:
        client = session.get(ApiClient, str(claims["client"]), with_for_update=True)
        user = session.get(User, (claims["tenant"], claims["sub"]))
        tenant = session.get(Tenant, claims["tenant"])
        stolen = session.get(Revocation, used) is not None
        if stolen:
            revoke(session, f"family:{claims['family']}", issued_until=now_ms(), expires_at=expires)
        else:
            revoke(session, used, issued_until=now_ms(), expires_at=expires)
    if stolen:
        current.revocations.publish()
        raise _refused("refresh-token-reused", "The token was used before. Log in again.")
    if current.revocations.refused({**claims, "jti": ""}):
        raise _refused("token-revoked", "The token was revoked. Log in again.")
    if not (client and user and tenant) or client.disabled or user.disabled or tenant.disabled:
        raise _refused("client-disabled", "The client, its user or its tenant is disabled.")
    granted = scopes_of(user.role, claims.get("scope")) & scopes_of(user.role, client.scopes)
    return _tokens(current, user.tenant, user.name, user.role, granted, client.id, claims["family"])


@auth_api.post(
    "/revoke",
    summary="End a token",
    responses={"200": None, **problems(400, 415, 422, 429, 503)},
)
def revoke_token(body: RevokeRequest) -> Response:
    """Refused by every API process within about a second. A refresh token ends all tokens of its
    login. A token that is not good here any more answers the same (RFC 7009, 2.2).
    """
    current = services()
    claims = _claims(body.token)
    if claims is not None:
        whole = claims.get("type") == "refresh" and claims.get("family")
        subject = f"family:{claims['family']}" if whole else f"token:{claims['jti']}"
        with current.database.session() as session:
            revoke(session, subject, issued_until=now_ms(), expires_at=int(claims["exp"] * 1000))
        current.revocations.publish()
    return current_app.response_class(b"{}", mimetype="application/json")


def _claims(token: str) -> dict[str, Any] | None:
    """The claims of a token that we signed and that has not expired."""
    try:
        claims: dict[str, Any] = decode_token(token)
    except (JWTExtendedException, PyJWTError):
        return None
    return claims


def _tokens(
    current: Services,
    tenant: str,
    user: str,
    role: str,
    scopes: frozenset[str],
    client: str,
    family: str,
) -> Response:
    settings = current.settings
    lives = timedelta(seconds=settings.jwt_expires_seconds)
    pair = [
        mint_token(
            settings,
            user=user,
            tenant=tenant,
            role=role,
            expires=lives * (REFRESH_LIVES if refresh else 1),
            scopes=scopes,
            claims={"client": client, "family": family},
            refresh=refresh,
        )
        for refresh in (False, True)
    ]
    body = Tokens(
        access_token=pair[0],
        expires_in=settings.jwt_expires_seconds,
        refresh_token=pair[1],
        scope=" ".join(sorted(scopes)),
    )
    return current_app.response_class(
        orjson.dumps(body.model_dump()),
        mimetype="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _refused(kind: str, detail: str) -> Problem:
    return Problem(401, kind, detail, headers={"WWW-Authenticate": f'Bearer error="{kind}"'})
