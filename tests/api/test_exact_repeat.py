"""Exact repeats: answered by the API, without a worker, as a job like any other."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from flask.testing import FlaskClient

from app.api import API, create_app
from app.cli.tokens import mint
from tasks.cache_uses import documents_key, stats_key
from tasks.exact_cache import Answer, Entry, encode_entry
from tasks.fingerprint import fingerprint, last_user_text, tenant_pool
from tasks.inference import InferenceSubmission, Priority
from tests.api.conftest import Login, make_settings

PROMPT = "Why is the sky blue?"


def store(api: API) -> str:
    """Store an answer to PROMPT as a worker does it for the tenant acme; its fingerprint."""
    services = api.extensions["inferenceflow"]
    asked = InferenceSubmission(prompt=PROMPT)
    scope = services.repeats.rules.scope(asked, "acme")
    name = fingerprint(scope, last_user_text(asked))
    answer = Answer("Rayleigh scattering.", "openai", "gpt-4o-mini", cost=0.5, latency=2.0)
    entry = Entry(name, scope.pool, scope.digest, PROMPT, answer, time.time() - 10, ttl=60)
    key = f"{services.settings.key_prefix}cache:entry:{name}"
    services.cache_redis.set(key, encode_entry(entry), ex=60)
    return name


@pytest.fixture
def stored(api: API) -> str:
    """The fingerprint of a stored answer to PROMPT."""
    return store(api)


def test_a_repeat_is_an_ended_job_at_once(client: FlaskClient, login: Login, stored: str) -> None:
    answer = client.post("/v1/inference", json={"prompt": PROMPT}, headers=login())
    assert answer.status_code == 200
    job = answer.json
    assert (job["state"], job["attempt"], job["timing"]["provider_ms"]) == ("succeeded", 0, 0)
    assert job["timing"]["total_ms"] == job["timing"]["cache_ms"]
    result = job["result"]
    assert (result["response"], result["cache_hit"]) == ("Rayleigh scattering.", True)
    assert (result["cost"], result["saved"], result["tokens_used"]) == (0.0, 0.5, 0)
    assert (result["cache"]["layer"], result["cache"]["entry"]) == ("exact", stored)
    again = client.get(f"/v1/jobs/{job['id']}", headers=login()).json
    assert {**again, "queue_position": None} == {**job, "queue_position": None}


def test_nothing_is_left_for_a_worker(
    api: API, client: FlaskClient, login: Login, stored: str
) -> None:
    client.post("/v1/inference", json={"prompt": PROMPT}, headers=login())
    services = api.extensions["inferenceflow"]
    assert services.ledger.claim(Priority.NORMAL, "worker", 10) is None
    assert services.ledger.loads()[Priority.NORMAL].messages == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": PROMPT + " In one word?"},
        {"cache": {"mode": "off"}},
        {"cache": {"mode": "refresh"}},
        {"temperature": 1.5},
        {"system": "Be brief."},
    ],
)
def test_what_may_not_be_served_is_queued(
    client: FlaskClient, login: Login, stored: str, changed: dict[str, object]
) -> None:
    answer = client.post("/v1/inference", json={"prompt": PROMPT, **changed}, headers=login())
    assert (answer.status_code, answer.json["state"]) == (202, "queued")


def test_another_tenant_is_not_served(client: FlaskClient, login: Login, stored: str) -> None:
    answer = client.post("/v1/inference", json={"prompt": PROMPT}, headers=login(tenant="other"))
    assert answer.status_code == 202


def test_a_tenant_of_the_same_pool_is_served(redis_url: str, prefix: str) -> None:
    api = create_app(make_settings(redis_url, prefix, cache_shared_pools="acme=team,beta=team"))
    store(api)
    for tenant, status in (("acme", 200), ("beta", 200), ("team", 202)):
        token = mint(
            make_settings(redis_url, prefix),
            user="ann",
            tenant=tenant,
            role="user",
            expires=timedelta(hours=1),
        )
        answer = api.test_client().post(
            "/v1/inference", json={"prompt": PROMPT}, headers={"Authorization": f"Bearer {token}"}
        )
        assert answer.status_code == status


def test_a_hit_starts_the_time_anew_where_that_is_set(redis_url: str, prefix: str) -> None:
    settings = make_settings(redis_url, prefix, cache_sliding_ttl=True)
    api = create_app(settings)
    name = store(api)
    services = api.extensions["inferenceflow"]
    key = f"{prefix}cache:entry:{name}"
    document = f"{prefix}cache:doc:build:{name}"
    services.cache_redis.hset(document, "partition", "p")
    services.cache_redis.sadd(documents_key(f"{prefix}cache"), f"{prefix}cache:doc:build:")
    for each in (key, document):
        services.cache_redis.expire(each, 20)
    token = mint(settings, user="ann", tenant="acme", role="user", expires=timedelta(hours=1))
    answer = api.test_client().post(
        "/v1/inference", json={"prompt": PROMPT}, headers={"Authorization": f"Bearer {token}"}
    )
    assert answer.status_code == 200
    services.repeats.uses.flush()
    assert services.cache_redis.ttl(key) > 50
    assert services.cache_redis.ttl(document) > 50


def test_what_was_invalidated_is_not_served(
    api: API, client: FlaskClient, login: Login, stored: str
) -> None:
    services = api.extensions["inferenceflow"]
    services.cache_redis.incr(f"{services.settings.key_prefix}cache:generation")
    answer = client.post("/v1/inference", json={"prompt": PROMPT}, headers=login())
    assert answer.status_code == 202


def test_chat_and_its_stream_repeat_too(client: FlaskClient, login: Login, stored: str) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": PROMPT}]}
    whole = client.post("/v1/chat/completions", json=body, headers=login())
    assert whole.headers["X-Cache"] == "hit; layer=exact"
    assert whole.json["choices"][0]["message"]["content"] == "Rayleigh scattering."
    stream = client.post("/v1/chat/completions", json={**body, "stream": True}, headers=login())
    assert b"Rayleigh scattering." in stream.data
    assert stream.data.endswith(b"data: [DONE]\n\n")


def test_an_idempotency_key_still_names_one_job(
    client: FlaskClient, login: Login, stored: str
) -> None:
    headers = {**login(), "Idempotency-Key": "k"}
    first = client.post("/v1/inference", json={"prompt": PROMPT}, headers=headers).json
    second = client.post("/v1/inference", json={"prompt": PROMPT}, headers=headers)
    assert second.json["id"] == first["id"]
    assert second.headers["Idempotency-Replayed"] == "true"


def test_hits_are_counted(api: API, client: FlaskClient, login: Login, stored: str) -> None:
    for _ in range(3):
        client.post("/v1/inference", json={"prompt": PROMPT}, headers=login())
    services = api.extensions["inferenceflow"]
    services.repeats.uses.flush()
    prefix = f"{services.settings.key_prefix}cache"
    for key in (stats_key(prefix), stats_key(prefix, tenant_pool("acme"))):
        counted = {k.decode(): float(v) for k, v in services.cache_redis.hgetall(key).items()}
        assert counted == {"hit_exact": 3, "saved_cost": 1.5, "saved_seconds": 6}
    assert services.cache_redis.zscore(f"{prefix}:hits", stored) == 3
