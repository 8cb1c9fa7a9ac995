"""Repeated requests: how long they are known, and what is not a repetition."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from tasks.inference import Priority
from tasks.jobs import JobState
from tests.api.conftest import Login

BODY = {"prompt": "hi"}


def post(
    client: FlaskClient, login: Login, body: Any = BODY, who: Any = None, **headers: str
) -> Any:
    sent = {**login(**(who or {})), **{name.replace("_", "-"): v for name, v in headers.items()}}
    return client.post("/v1/inference", json=body, headers=sent)


def test_the_answer_is_given_again_after_the_end(client, login, api) -> None:
    first = post(client, login, Idempotency_Key="k")
    ledger = api.extensions["inferenceflow"].ledger
    job = ledger.claim(Priority.NORMAL, "worker", 10)
    ledger.finish(job, JobState.SUCCEEDED, result=b'{"response": "x"}')
    again = post(client, login, Idempotency_Key="k")
    assert again.status_code == 200
    assert again.json["id"] == first.json["id"]
    assert again.json["result"] == {"response": "x"}
    assert again.headers["Idempotency-Replayed"] == "true"


def test_a_key_is_kept_for_a_day(client, login, api) -> None:
    post(client, login, Idempotency_Key="k")
    current = api.extensions["inferenceflow"]
    name = current.ledger.key("idem", "acme", "ann:key:k")
    assert 86_000 < current.job_redis.ttl(name) <= 86_400


def test_a_key_whose_job_was_deleted_is_free_again(client, login, api) -> None:
    first = post(client, login, Idempotency_Key="k").json["id"]
    current = api.extensions["inferenceflow"]
    current.ledger.cancel(first, "acme")
    current.job_redis.delete(current.ledger.key("job", first))
    again = post(client, login, Idempotency_Key="k")
    assert again.status_code == 202
    assert again.json["id"] != first


@pytest.mark.parametrize("key", ["a\tb", "k\u00a0k"])
def test_bad_keys_are_refused(client, login, key) -> None:
    answer = post(client, login, Idempotency_Key=key)
    assert answer.status_code == 400
    assert answer.json["type"].endswith(":bad-idempotency-key")


def test_a_retry_of_what_never_arrived_is_a_new_job(client, login) -> None:
    retry = post(client, login, X_Stainless_Retry_Count="2")
    assert retry.status_code == 202
    assert "Idempotency-Replayed" not in retry.headers
    assert post(client, login, X_Stainless_Retry_Count="3").json["id"] == retry.json["id"]


def test_parts_of_a_message_reach_the_worker(client, login, api) -> None:
    content = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    ]
    body = {"messages": [{"role": "user", "content": content}]}
    assert post(client, login, body).status_code == 202
    job = api.extensions["inferenceflow"].ledger.claim(Priority.NORMAL, "worker", 10)
    (message,) = job.parsed_request().conversation()
    assert message.text == "look"
    assert len(message.images) == 1
