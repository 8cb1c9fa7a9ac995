"""Holding the scaler: by the platform's administrators alone, seen by all, and written down."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient
from werkzeug.serving import make_server

from app.api import API
from app.cli import main
from tasks.scaler_state import claim_tick, read_pause, save_tick
from tests.accounts.conftest import services_of, token


@pytest.fixture
def served(api: API) -> Iterator[str]:
    """The URL of the API over HTTP."""
    server = make_server("127.0.0.1", 0, api, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def paused(api: API) -> dict[str, Any] | None:
    services = services_of(api)
    return read_pause(services.job_redis, prefix=services.settings.key_prefix)


def test_it_is_paused_and_resumed(
    api: API, client: FlaskClient, platform: dict[str, str], ann: dict[str, str]
) -> None:
    held = client.post("/v1/scaler/pause", headers=platform, json={"reason": "deploy"})
    assert held.status_code == 200
    seen = client.get("/v1/scaler", headers=ann).json
    assert seen is not None
    assert (seen["paused"]["by"], seen["paused"]["reason"]) == ("ops/root", "deploy")
    freed = client.post("/v1/scaler/resume", headers=platform)
    assert freed.json is not None
    assert freed.json["paused"] is None
    log = client.get("/v1/admin/audit?tenant=ops", headers=platform).json
    assert log is not None
    assert [one["action"] for one in log["data"]][:2] == ["scaler.resume", "scaler.pause"]


@pytest.mark.parametrize("path", ["pause", "resume"])
def test_others_may_not(api: API, client: FlaskClient, ann: dict[str, str], path: str) -> None:
    for headers in (ann, token(api, user="boss", role="admin")):
        answer = client.post(f"/v1/scaler/{path}", headers=headers, json={"reason": "mine"})
        assert answer.status_code == 403
    assert paused(api) is None


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "x", "more": 1}])
def test_a_pause_needs_a_reason(
    api: API, client: FlaskClient, platform: dict[str, str], body: dict[str, Any]
) -> None:
    assert client.post("/v1/scaler/pause", headers=platform, json=body).status_code == 422
    assert paused(api) is None


def test_the_command_line_does_what_the_api_does(
    api: API, served: str, ann: dict[str, str], platform: dict[str, str]
) -> None:
    run = CliRunner().invoke
    target = ["--url", served, "--token", ann["Authorization"].removeprefix("Bearer ")]
    mighty = ["--url", served, "--token", platform["Authorization"].removeprefix("Bearer ")]
    assert "no decision yet" in run(main, ["scaler", "status", *target]).output
    services = services_of(api)
    fence = claim_tick(services.job_redis, "test", 60, prefix=services.settings.key_prefix)
    assert fence is not None
    save_tick(
        services.job_redis,
        fence,
        memories={},
        decisions={
            "high": '{"mode": "act", "level": "nowcast", "before": 2, "after": 3, '
            '"reason": "staffing", "replicas": {"ready": 2}}'
        },
        prefix=services.settings.key_prefix,
    )
    shown = run(main, ["scaler", "status", *target]).output
    assert all(word in shown for word in ("high", "act", "nowcast", "staffing"))
    refused = run(main, ["scaler", "pause", "why", *target])
    assert refused.exit_code == 1
    assert "platform" in refused.output
    assert run(main, ["scaler", "pause", "deploy", *mighty]).exit_code == 0
    assert "paused by ops/root: deploy" in run(main, ["scaler", "status", *target]).output
    assert run(main, ["scaler", "resume", *mighty]).exit_code == 0
    assert paused(api) is None
    assert '"paused": null' in run(main, ["scaler", "status", "--json", *target]).output
