"""What a browser is told: pages that can do little, and no other site may read answers."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from tests.api.conftest import Login

PAGES = ["/docs/swagger", "/console"]


@pytest.mark.parametrize("path", PAGES)
def test_pages_carry_a_policy(client: FlaskClient, path: str) -> None:
    page = client.get(path, follow_redirects=True, buffered=True)
    assert page.status_code == 200
    assert page.mimetype == "text/html"
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith(("default-src 'self'", "default-src 'none'"))
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-eval" not in policy
    assert page.headers["X-Frame-Options"] == "DENY"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", [*PAGES, "/v1/jobs", "/v1/health/live", "/openapi.json"])
def test_no_other_site_may_read(client: FlaskClient, login: Login, path: str) -> None:
    headers = {**login(), "Origin": "https://evil.example"}
    for answer in (
        client.get(path, headers=headers, follow_redirects=True, buffered=True),
        client.options(
            path, headers={**headers, "Access-Control-Request-Method": "GET"},
            follow_redirects=True, buffered=True,
        ),
    ):  # fmt: skip
        told = {name.lower() for name in answer.headers.keys()}  # noqa: SIM118 - not a dict
        assert not {name for name in told if name.startswith("access-control-")}, path
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_nothing_is_kept_in_cookies(client: FlaskClient, login: Login) -> None:
    for path in (*PAGES, "/v1/jobs"):
        answer = client.get(path, headers=login(), follow_redirects=True, buffered=True)
        assert "Set-Cookie" not in answer.headers
