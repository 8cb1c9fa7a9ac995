"""Tokens that were verified are not verified again; nothing else is taken for granted."""

from __future__ import annotations

import time
from datetime import timedelta

from flask.testing import FlaskClient

from app.verified import VerifiedTokens
from tests.api.conftest import Login


def test_a_kept_token_is_found_until_it_expires() -> None:
    tokens = VerifiedTokens[str]()
    tokens.keep("Bearer a", "ann", {"exp": time.time() + 60})
    assert tokens.find("Bearer a") is not None
    assert tokens.find("Bearer b") is None
    tokens.keep("Bearer c", "cid", {"exp": time.time() - 1})
    assert tokens.find("Bearer c") is None


def test_a_token_without_an_end_is_not_kept() -> None:
    tokens = VerifiedTokens[str]()
    tokens.keep("Bearer a", "ann", {})
    assert tokens.find("Bearer a") is None


def test_the_least_recently_used_is_forgotten() -> None:
    tokens = VerifiedTokens[str](most=2)
    end = {"exp": time.time() + 60}
    tokens.keep("a", "a", end)
    tokens.keep("b", "b", end)
    assert tokens.find("a") is not None
    tokens.keep("c", "c", end)
    assert tokens.find("b") is None
    assert tokens.find("a") is not None


def test_a_changed_signature_is_refused_after_the_true_one(
    client: FlaskClient, login: Login
) -> None:
    headers = login(expires=timedelta(minutes=1))
    assert client.get("/v1/jobs", headers=headers).status_code == 200
    assert client.get("/v1/jobs", headers=headers).status_code == 200
    token = headers["Authorization"]
    other = token[:-10] + ("A" if token[-10] != "A" else "B") + token[-9:]
    assert client.get("/v1/jobs", headers={"Authorization": other}).status_code == 401
