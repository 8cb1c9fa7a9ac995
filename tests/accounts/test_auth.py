"""Tokens: from secrets, refreshed, revoked, rotated, narrowed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from app.api import API
from app.credentials import hash_secret, new_secret, secret_matches
from app.revocation import Revocations, revoke
from app.scopes import needed_scope, scopes_of
from tasks.accounts import now_ms
from tasks.database import Database
from tests.accounts.conftest import services_of, token
from tests.stack import eventually

ADMIN = "/v1/admin/tenants/acme"
OTHER_SECRET = "another-secret-that-only-the-tests-know"


@pytest.fixture
def made(client: FlaskClient, platform: dict[str, str]) -> dict[str, Any]:
    """A client of a new user."""
    assert client.post(f"{ADMIN}/users", json={"name": "zoe"}, headers=platform).status_code == 201
    answer = client.post(f"{ADMIN}/clients", json={"user": "zoe"}, headers=platform)
    assert answer.status_code == 201, answer.json
    found: dict[str, Any] = answer.json or {}
    return found


def login(client: FlaskClient, made: dict[str, Any], **changes: Any) -> TestResponse:
    body = {"client_id": made["client_id"], "client_secret": made["client_secret"], **changes}
    return client.post("/v1/auth/token", json=body)


def bearer(tokens: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens['access_token']}"}


def allowed(client: FlaskClient, headers: dict[str, str]) -> bool:
    answer = client.get("/v1/jobs", headers=headers)
    assert answer.status_code in (200, 401), answer.json
    return answer.status_code == 200


def refused_soon(client: FlaskClient, headers: dict[str, str]) -> None:
    eventually(lambda: not allowed(client, headers), seconds=5, what="the token is refused")


def test_a_secret_becomes_a_token(client: FlaskClient, made: dict[str, Any]) -> None:
    answer = login(client, made)
    assert answer.status_code == 200
    assert answer.json is not None
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json["scope"] == "jobs:read jobs:write usage:read"
    assert allowed(client, bearer(answer.json))


def test_wrong_secret_and_unknown_client_look_the_same(
    client: FlaskClient, made: dict[str, Any]
) -> None:
    wrong = login(client, made, client_secret="no")
    unknown = login(client, made, client_id="client_nobody")
    assert wrong.status_code == unknown.status_code == 401
    said = [{**(answer.json or {}), "request_id": ""} for answer in (wrong, unknown)]
    assert said[0] == said[1]


def test_scopes_narrow(client: FlaskClient, made: dict[str, Any]) -> None:
    narrow = login(client, made, scope="jobs:read").json
    assert narrow is not None
    answer = client.post("/v1/inference", json={"prompt": "hi"}, headers=bearer(narrow))
    assert answer.status_code == 403
    assert answer.json is not None
    assert answer.json["type"].endswith("insufficient-scope")
    assert allowed(client, bearer(narrow))
    assert login(client, made, scope="admin").status_code == 422


def test_a_refresh_token_is_good_once(client: FlaskClient, made: dict[str, Any]) -> None:
    first = login(client, made).json
    assert first is not None
    second = client.post("/v1/auth/refresh", json={"refresh_token": first["refresh_token"]})
    assert second.status_code == 200
    assert second.json is not None
    assert allowed(client, bearer(second.json))
    assert not allowed(client, {"Authorization": f"Bearer {first['refresh_token']}"})
    again = client.post("/v1/auth/refresh", json={"refresh_token": first["refresh_token"]})
    assert again.status_code == 401
    # Somebody has a copy: nothing of this login is good any more.
    refused_soon(client, bearer(second.json))
    stolen = client.post("/v1/auth/refresh", json={"refresh_token": second.json["refresh_token"]})
    assert stolen.status_code == 401


@pytest.mark.parametrize("bad", ["nonsense", None])
def test_what_is_no_refresh_token_gets_nothing(
    client: FlaskClient, made: dict[str, Any], bad: str | None
) -> None:
    tokens = login(client, made).json
    assert tokens is not None
    answer = client.post("/v1/auth/refresh", json={"refresh_token": bad or tokens["access_token"]})
    assert answer.status_code == 401


def test_revocation_reaches_another_process(
    client: FlaskClient, made: dict[str, Any], make_api: Callable[..., API]
) -> None:
    elsewhere = make_api().test_client()
    one, two = login(client, made).json, login(client, made).json
    assert one is not None
    assert two is not None
    assert allowed(elsewhere, bearer(one))
    assert client.post("/v1/auth/revoke", json={"token": one["access_token"]}).status_code == 200
    refused_soon(elsewhere, bearer(one))
    assert allowed(elsewhere, bearer(two))
    # The refresh token takes all tokens of its login with it.
    client.post("/v1/auth/revoke", json={"token": two["refresh_token"]})
    refused_soon(elsewhere, bearer(two))
    assert client.post("/v1/auth/revoke", json={"token": "nonsense"}).status_code == 200


def test_revocations_survive_a_flush(
    api: API, client: FlaskClient, made: dict[str, Any], prefix: str, make_api: Callable[..., API]
) -> None:
    tokens = login(client, made).json
    assert tokens is not None
    client.post("/v1/auth/revoke", json={"token": tokens["access_token"]})
    current = services_of(api)
    for key in current.job_redis.scan_iter(f"{prefix}*"):
        current.job_redis.delete(key)
    elsewhere = make_api().test_client()
    assert not allowed(elsewhere, bearer(tokens))


class SlowDatabase(Database):
    """Answers late: what was read is handed over when `go` is set."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.read, self.go = threading.Event(), threading.Event()

    @contextmanager
    def session(self) -> Iterator[Session]:
        with super().session() as session:
            yield session
        self.read.set()
        assert self.go.wait(30)


@pytest.mark.parametrize("flushed", [False, True], ids=["kept", "flushed"])
def test_a_slow_reading_neither_holds_up_nor_undoes_a_newer_one(
    database: Database, redis_client: redis.Redis, prefix: str, flushed: bool
) -> None:
    slow = SlowDatabase(database.url.render_as_string(hide_password=False))
    older = threading.Thread(target=Revocations(redis_client, prefix, slow).publish)
    older.start()
    try:
        assert slow.read.wait(30)
        with database.session() as session:
            revoke(session, "tenant:acme", issued_until=now_ms(), expires_at=now_ms() + 60_000)
        newer = Revocations(redis_client, prefix, database)
        claims = {"jti": "1", "sub": "ann", "tenant": "acme", "iat": 1}
        assert newer.refused(claims)
        if flushed:
            for key in redis_client.scan_iter(f"{prefix}*"):
                redis_client.delete(key)
    finally:
        slow.go.set()
        older.join()
    assert Revocations(redis_client, prefix, database).refused(claims)
    assert redis_client.hget(f"{prefix}revoked", "tenant:acme") is not None
    slow.close()


@pytest.mark.parametrize("ahead_seconds", [0, 3600])
def test_a_version_that_another_release_or_clock_wrote_is_gone_beyond(
    database: Database, redis_client: redis.Redis, prefix: str, ahead_seconds: int
) -> None:
    redis_client.set(f"{prefix}revoked:version", time.time_ns() + ahead_seconds * 10**9)
    elsewhere = Revocations(redis_client, prefix, database)
    claims = {"jti": "1", "sub": "ann", "tenant": "acme", "iat": 1}
    assert not elsewhere.refused(claims)
    with database.session() as session:
        revoke(session, "tenant:acme", issued_until=now_ms(), expires_at=now_ms() + 60_000)
    Revocations(redis_client, prefix, database).publish()
    eventually(lambda: elsewhere.refused(claims), seconds=5, what="the other process knows")


def test_a_rotated_secret_ends_the_old_one_and_its_tokens(
    client: FlaskClient, made: dict[str, Any], platform: dict[str, str]
) -> None:
    old = login(client, made).json
    rotated = client.post(f"{ADMIN}/clients/{made['client_id']}/rotate", headers=platform).json
    assert rotated is not None
    assert login(client, made).status_code == 401
    new = login(client, rotated).json
    refused_soon(client, bearer(old))
    assert allowed(client, bearer(new))
    answer = client.delete(f"{ADMIN}/clients/{made['client_id']}", headers=platform)
    assert answer.status_code == 204
    refused_soon(client, bearer(new))
    assert login(client, rotated).status_code == 401


def test_disabling_a_user_or_tenant_and_back(
    client: FlaskClient, made: dict[str, Any], platform: dict[str, str]
) -> None:
    for path in (f"{ADMIN}/users/zoe", ADMIN):
        tokens = login(client, made).json
        assert allowed(client, bearer(tokens))
        disabled = client.patch(path, json={"disabled": True}, headers=platform)
        assert disabled.status_code == 200, disabled.json
        refused_soon(client, bearer(tokens))
        assert login(client, made).status_code == 401
        client.patch(path, json={"disabled": False}, headers=platform)
        fresh = login(client, made)
        assert fresh.status_code == 200
        assert allowed(client, bearer(fresh.json))
        assert not allowed(client, bearer(tokens))


def test_a_changed_role_ends_the_tokens_of_the_old_one(
    client: FlaskClient, made: dict[str, Any], platform: dict[str, str]
) -> None:
    tokens = login(client, made).json
    client.patch(f"{ADMIN}/users/zoe", json={"role": "admin"}, headers=platform)
    refused_soon(client, bearer(tokens))


def test_keys_rotate(database: Database, make_api: Callable[..., API]) -> None:
    def made_with(key: str, *previous: str) -> API:
        return make_api(jwt_secret_key=key, jwt_previous_keys=list(previous))

    old = made_with("the-old-key-with-more-than-thirty-two-bytes")
    new = made_with(OTHER_SECRET, "the-old-key-with-more-than-thirty-two-bytes")
    only_new = made_with(OTHER_SECRET)
    signed_before, signed_after = token(old), token(new)
    assert allowed(new.test_client(), signed_before)
    assert allowed(new.test_client(), signed_after)
    assert not allowed(only_new.test_client(), signed_before)
    assert allowed(only_new.test_client(), signed_after)
    assert not allowed(old.test_client(), signed_after)


def test_an_expired_token_says_so(api: API, client: FlaskClient) -> None:
    answer = client.get("/v1/jobs", headers=token(api, expires=timedelta(seconds=-1)))
    assert answer.json is not None
    assert answer.json["type"].endswith("token-expired")


def test_secrets_are_hashed_with_salt() -> None:
    secret = new_secret()
    one, two = hash_secret(secret), hash_secret(secret)
    assert one != two
    assert secret not in one
    assert secret_matches(secret, one)
    assert not secret_matches(secret + "x", one)
    assert not secret_matches(secret, None)
    with pytest.raises(ValueError, match="unknown kind"):
        secret_matches(secret, "md5$1,1,1$AA==$AA==")


def test_scopes_by_role_and_grant() -> None:
    assert "admin" in scopes_of("admin", None)
    assert "platform" not in scopes_of("admin", None)
    assert scopes_of("user", "admin platform jobs:read") == {"jobs:read"}
    assert needed_scope("GET", "/v1/usage") == "usage:read"
    assert needed_scope("DELETE", "/v1/files/x") == "jobs:write"
    assert needed_scope("POST", "/v1/admin/tenants") == "admin"
    assert needed_scope("POST", "/v1/auth/token") is None
