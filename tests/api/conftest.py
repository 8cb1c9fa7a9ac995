"""The API in this process, on the session's Redis under a prefix of its own."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import timedelta

import pytest
from flask.testing import FlaskClient

from app.api import API, create_app
from app.identity import mint_token
from config.settings import Settings

Login = Callable[..., dict[str, str]]


def make_settings(redis_url: str, prefix: str, **changes: object) -> Settings:
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        redis_url=redis_url,
        key_prefix=prefix,
        redis_timeout_seconds=changes.pop("redis_timeout_seconds", 5),  # a busy machine is slow
        jwt_secret_key="a-secret-that-only-the-tests-sign-with",  # type: ignore[arg-type]
        **changes,  # type: ignore[arg-type]
    )


@pytest.fixture
def api(redis_url: str, prefix: str) -> API:
    return create_app(make_settings(redis_url, prefix))


@pytest.fixture
def client(api: API) -> FlaskClient:
    return api.test_client()


@pytest.fixture
def login(api: API) -> Login:
    """Authorization headers for a user."""

    def headers(
        user: str = "ann",
        tenant: str = "acme",
        role: str = "user",
        expires: timedelta = timedelta(hours=1),
    ) -> dict[str, str]:
        settings = api.extensions["inferenceflow"].settings
        with api.app_context():
            token = mint_token(settings, user=user, tenant=tenant, role=role, expires=expires)
        return {"Authorization": f"Bearer {token}"}

    return headers


@pytest.fixture
def fresh_prefix() -> str:
    return f"test:{secrets.token_hex(6)}:"
