"""A deadline that the queue cannot keep is refused when the job is sent."""

from __future__ import annotations

import redis
from flask.testing import FlaskClient

from app.api import API
from tests.api.conftest import Login
from tests.ledger.test_deadlines import SLOT_MS, busy_for


def test_the_client_is_told_the_estimate(
    api: API, client: FlaskClient, login: Login, redis_client: redis.Redis
) -> None:
    ledger = api.extensions["inferenceflow"].ledger
    headers = login()
    ids = [
        client.post("/v1/inference", json={"prompt": f"p{n}"}, headers=headers).json["id"]
        for n in range(20)
    ]
    at, _ = redis_client.time()
    for slot in range(at * 1000 // SLOT_MS - 7, at * 1000 // SLOT_MS + 1):
        redis_client.hset(ledger.key("drained", str(slot)), "normal", 1)
    busy_for(ledger, redis_client, 60)
    waiting = client.get(f"/v1/jobs/{ids[-1]}", headers=headers).json
    assert waiting["queue_position"] == 20
    assert 100 < waiting["eta_seconds"] < 250

    hurried = {"prompt": "now", "deadline_seconds": 20}
    refused = client.post("/v1/inference", json=hurried, headers=headers)
    assert refused.status_code == 503
    assert refused.json["type"] == "urn:inferenceflow:problem:deadline-unreachable"
    assert "deadline of 20 s" in refused.json["detail"]
    assert 80 < int(refused.headers["Retry-After"]) < 250
    chat = {
        "model": "auto",
        "messages": [{"role": "user", "content": "now"}],
        "deadline_seconds": 20,
    }
    refused = client.post("/v1/chat/completions", json=chat, headers=headers)
    assert (refused.status_code, refused.json["error"]["code"]) == (503, "deadline_unreachable")
    assert (
        client.post("/v1/inference", json={"prompt": "later"}, headers=headers).status_code == 202
    )
