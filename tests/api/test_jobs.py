"""Submitting, reading, waiting, listing and cancelling over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest
from flask.testing import FlaskClient

from app.api import API
from tasks.inference import Priority
from tasks.jobs import JobState
from tests.api.conftest import Login

ANSWER = orjson.dumps({"response": "hello"})


@pytest.fixture
def finish_next(api: API) -> Iterator[object]:
    """Stands in for a worker: claims the next job of a lane and ends it."""
    ledger = api.extensions["inferenceflow"].ledger

    def finish(lane: Priority = Priority.NORMAL) -> str:
        job = ledger.claim(lane, "worker", 10)
        assert job is not None
        assert ledger.finish(job, JobState.SUCCEEDED, result=ANSWER)
        return job.id

    yield finish
    api.extensions["inferenceflow"].hub.stop()


def test_submit_answers_202_with_location(client: FlaskClient, login: Login) -> None:
    answer = client.post("/v1/inference", json={"prompt": "hi"}, headers=login())
    assert answer.status_code == 202
    job = answer.json
    assert job["state"] == "queued"
    assert job["queue_position"] == 1
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["X-Request-ID"] == job["request_id"]
    assert client.get(answer.headers["Location"], headers=login()).json == job


def test_a_given_request_id_is_kept(client: FlaskClient, login: Login) -> None:
    headers = {**login(), "X-Request-ID": "mine-1"}
    answer = client.post("/v1/inference", json={"prompt": "hi"}, headers=headers)
    assert answer.headers["X-Request-ID"] == "mine-1"
    assert answer.json["request_id"] == "mine-1"


@pytest.mark.parametrize("how", ["query", "prefer"])
def test_wait_returns_the_end(client, login, finish_next, api, how) -> None:
    ledger = api.extensions["inferenceflow"].ledger

    def worker() -> None:
        while not ledger.loads()[Priority.NORMAL].ready:
            pass
        finish_next()

    thread = threading.Thread(target=worker)
    thread.start()
    headers = login()
    if how == "prefer":
        headers["Prefer"] = "respond-async, wait=20"
    url = "/v1/inference" + ("?wait=20" if how == "query" else "")
    answer = client.post(url, json={"prompt": "hi"}, headers=headers)
    thread.join()
    assert answer.status_code == 200
    assert answer.json["state"] == "succeeded"
    assert answer.json["result"] == {"response": "hello"}
    assert answer.headers.get("Preference-Applied") == ("wait=20" if how == "prefer" else None)


def test_wait_that_ends_too_early_answers_202(client: FlaskClient, login: Login) -> None:
    answer = client.post("/v1/inference?wait=0.05", json={"prompt": "hi"}, headers=login())
    assert answer.status_code == 202
    assert answer.json["state"] == "queued"


def test_many_wait_on_one_connection(api, login, finish_next, prefix) -> None:
    """All waits of a process share one subscription, and every one of them is woken."""
    current = api.extensions["inferenceflow"]
    headers = login()
    waits = 100

    def submit_and_wait(number: int) -> str:
        answer = api.test_client().post(
            "/v1/inference?wait=30", json={"prompt": f"p{number}"}, headers=headers
        )
        return str(answer.json["state"])

    with ThreadPoolExecutor(waits) as pool:
        states = [pool.submit(submit_and_wait, number) for number in range(waits)]
        while current.ledger.loads()[Priority.NORMAL].ready < waits:
            pass
        for _ in range(waits):
            finish_next()
        assert {future.result() for future in states} == {"succeeded"}
    channels = current.job_redis.pubsub_channels(f"{prefix}notify:*")
    assert len(channels) == 1


def test_conditional_get_answers_304_until_the_job_moves(client, login, finish_next) -> None:
    job_id = client.post("/v1/inference", json={"prompt": "hi"}, headers=login()).json["id"]
    first = client.get(f"/v1/jobs/{job_id}", headers=login())
    headers = {**login(), "If-None-Match": first.headers["ETag"]}
    assert client.get(f"/v1/jobs/{job_id}", headers=headers).status_code == 304
    finish_next()
    again = client.get(f"/v1/jobs/{job_id}", headers=headers)
    assert again.status_code == 200
    assert again.json["state"] == "succeeded"


def test_list_pages_through_all_jobs_newest_first(client, login) -> None:
    headers = login()
    ids = [
        client.post("/v1/inference", json={"prompt": str(n)}, headers=headers).json["id"]
        for n in range(25)
    ]
    seen: list[str] = []
    cursor = None
    while True:
        query = {"limit": 7, **({"cursor": cursor} if cursor else {})}
        page = client.get("/v1/jobs", query_string=query, headers=headers).json
        seen += [job["id"] for job in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(seen) == sorted(ids)
    assert len(seen) == len(set(seen))
    created = [client.get(f"/v1/jobs/{i}", headers=headers).json["created_at"] for i in seen]
    assert created == sorted(created, reverse=True)


def test_cancel_ends_a_queued_job_for_good(client, login, api) -> None:
    job_id = client.post("/v1/inference", json={"prompt": "hi"}, headers=login()).json["id"]
    cancelled = client.post(f"/v1/jobs/{job_id}/cancel", headers=login())
    assert cancelled.status_code == 200
    assert cancelled.json["state"] == "cancelled"
    assert api.extensions["inferenceflow"].ledger.claim(Priority.NORMAL, "w", 10) is None
    again = client.post(f"/v1/jobs/{job_id}/cancel", headers=login())
    assert again.status_code == 409
    assert again.json["type"].endswith(":job-ended")


def test_cancel_of_a_running_job_refuses_its_result(client, login, api) -> None:
    ledger = api.extensions["inferenceflow"].ledger
    job_id = client.post("/v1/inference", json={"prompt": "hi"}, headers=login()).json["id"]
    job = ledger.claim(Priority.NORMAL, "w", 10)
    assert client.post(f"/v1/jobs/{job_id}/cancel", headers=login()).status_code == 200
    assert ledger.renew([(job.id, job.fence)], 10) == [False]
    assert not ledger.finish(job, JobState.SUCCEEDED, result=ANSWER)
    assert client.get(f"/v1/jobs/{job_id}", headers=login()).json["result"] is None


class TestIdempotency:
    """One key, one job."""

    def test_fifty_at_once_make_one_job(self, api: API, login: Login) -> None:
        headers = {**login(), "Idempotency-Key": "k1"}

        def submit(_: int) -> tuple[int, str]:
            answer = api.test_client().post("/v1/inference", json={"prompt": "hi"}, headers=headers)
            return answer.status_code, answer.json["id"]

        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(submit, range(50)))
        assert {status for status, _ in answers} == {202}
        assert len({job_id for _, job_id in answers}) == 1
        assert api.extensions["inferenceflow"].ledger.loads()[Priority.NORMAL].ready == 1

    def test_a_replay_says_so(self, client, login) -> None:
        headers = {**login(), "Idempotency-Key": "k1"}
        first = client.post("/v1/inference", json={"prompt": "hi"}, headers=headers)
        again = client.post("/v1/inference", json={"prompt": "hi"}, headers=headers)
        assert "Idempotency-Replayed" not in first.headers
        assert again.headers["Idempotency-Replayed"] == "true"

    def test_another_body_is_refused(self, client, login, finish_next) -> None:
        headers = {**login(), "Idempotency-Key": "k1"}
        client.post("/v1/inference", json={"prompt": "hi"}, headers=headers)
        in_flight = client.post("/v1/inference", json={"prompt": "ho"}, headers=headers)
        finish_next()
        ended = client.post("/v1/inference", json={"prompt": "ho"}, headers=headers)
        assert (in_flight.status_code, ended.status_code) == (409, 422)

    def test_keys_belong_to_a_user(self, client, login) -> None:
        ids = {
            client.post(
                "/v1/inference",
                json={"prompt": "hi"},
                headers={**login(user=user, tenant=tenant), "Idempotency-Key": "k1"},
            ).json["id"]
            for user, tenant in [("ann", "acme"), ("bob", "acme"), ("ann", "blue")]
        }
        assert len(ids) == 3

    def test_a_marked_retry_is_the_same_job(self, client, login) -> None:
        def submit(retry: int, prompt: str) -> str:
            headers = {**login(), "X-Stainless-Retry-Count": str(retry)}
            answer = client.post("/v1/inference", json={"prompt": prompt}, headers=headers)
            return str(answer.json["id"])

        first = submit(0, "hi")
        assert submit(1, "hi") == first
        assert submit(1, "ho") != first
        second = submit(0, "hi")
        assert second != first
        assert submit(2, "hi") == second

    def test_a_bad_key_is_refused(self, client, login) -> None:
        headers = {**login(), "Idempotency-Key": "x" * 256}
        answer = client.post("/v1/inference", json={"prompt": "hi"}, headers=headers)
        assert answer.status_code == 400
