"""Following a job over HTTP: events, resuming, refusals."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import orjson
import pytest
from flask.testing import FlaskClient

from app import following
from app.api import API, create_app
from tasks.inference import Priority
from tasks.jobs import Job, JobState
from tasks.streams import Piece
from tests.api.conftest import Login, client, login, make_settings

__all__ = ["client", "login"]

MESSAGES = [{"role": "user", "content": "hi"}]
ANSWER = orjson.dumps({"response": "one two", "cache_hit": False})
Submit = Callable[..., Job]


@pytest.fixture
def api(redis_url: str, prefix: str) -> Iterator[API]:
    app = create_app(make_settings(redis_url, prefix))
    yield app
    app.extensions["inferenceflow"].hub.stop()


@pytest.fixture
def running(api: API, client: FlaskClient, login: Login) -> Submit:
    def submitted(**body: object) -> Job:
        sent = {"prompt": "hi", "stream": True, **body}
        assert client.post("/v1/inference", json=sent, headers=login()).status_code == 202
        job = api.extensions["inferenceflow"].ledger.claim(Priority.NORMAL, "worker", 30)
        assert job is not None
        return job

    return submitted


def add(api: API, job: Job, seq: int, text: str) -> None:
    piece = Piece(job.id, job.fence, seq, "delta", text)
    assert api.extensions["inferenceflow"].streams.append([piece]) == [True]


def finish(api: API, job: Job, state: JobState = JobState.SUCCEEDED) -> None:
    assert api.extensions["inferenceflow"].ledger.finish(job, state, result=ANSWER)


def blocks(body: bytes) -> list[bytes]:
    """The events, without comments."""
    return [block for block in body.split(b"\n\n") if block and not block.startswith(b":")]


def get(client: FlaskClient, login: Login, job: Job, query: str = "", **headers: str) -> bytes:
    answer = client.get(f"/v1/jobs/{job.id}/stream{query}", headers={**login(), **headers})
    assert answer.status_code == 200
    assert answer.mimetype == "text/event-stream"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert answer.headers["Cache-Control"] == "no-cache"
    body: bytes = answer.data
    return body


def test_the_events_of_an_ended_job(client, login, api, running) -> None:
    job = running()
    add(api, job, 1, "one ")
    add(api, job, 2, "two")
    finish(api, job)
    events = blocks(get(client, login, job))
    assert [event.split(b"\n")[1] for event in events] == [
        b"event: delta",
        b"event: delta",
        b"event: end",
    ]
    assert events[0].endswith(b'\ndata: {"text":"one "}')
    end = orjson.loads(events[-1].split(b"data: ")[1])
    shown = client.get(f"/v1/jobs/{job.id}", headers=login()).json
    assert end["state"] == "succeeded"
    assert {**shown, **end} == shown


def test_events_come_while_the_job_runs(client, login, api, running) -> None:
    job = running()
    answer = client.get(f"/v1/jobs/{job.id}/stream", headers=login(), buffered=False)
    chunks = iter(answer.response)
    assert next(chunks).startswith(b": stream of")
    for number in range(1, 4):
        threading.Thread(target=add, args=(api, job, number, f"t{number}")).start()
        assert next(chunks).endswith(f'data: {{"text":"t{number}"}}\n\n'.encode())
    threading.Thread(target=finish, args=(api, job)).start()
    assert b"event: end" in next(chunks)
    assert list(chunks) == []


@pytest.mark.parametrize("how", ["header", "query"])
def test_a_resumed_stream_is_byte_identical(client, login, api, running, how) -> None:
    job = running()
    for number in range(1, 6):
        add(api, job, number, f"t{number} ü \n\r\u2028")
    finish(api, job)
    whole = get(client, login, job)
    events = blocks(whole)
    assert len(events) == 6
    for place, event in enumerate(events[:-1]):
        seen = event.split(b"\n")[0].removeprefix(b"id: ").decode()
        rest = (
            get(client, login, job, **{"Last-Event-ID": seen})
            if how == "header"
            else get(client, login, job, f"?starting_after={seen}")
        )
        assert whole.endswith(rest.split(b"\n\n", 1)[1])
        assert blocks(rest) == events[place + 1 :]


def test_who_has_seen_the_end_is_told_to_stop(client, login, api, running) -> None:
    job = running()
    add(api, job, 1, "x")
    finish(api, job)
    last = blocks(get(client, login, job))[-1].split(b"\n")[0].removeprefix(b"id: ").decode()
    answer = client.get(f"/v1/jobs/{job.id}/stream", headers={**login(), "Last-Event-ID": last})
    assert answer.status_code == 204


def test_a_job_without_a_stream_shows_its_answer_in_one_piece(client, login, api, running) -> None:
    job = running(stream=False)
    finish(api, job)
    whole = get(client, login, job)
    events = blocks(whole)
    assert [event.split(b"\n")[1] for event in events] == [b"event: delta", b"event: end"]
    assert b'{"text":"one two"}' in events[0]
    first = events[0].split(b"\n")[0].removeprefix(b"id: ").decode()
    assert blocks(get(client, login, job, **{"Last-Event-ID": first})) == events[1:]


def test_a_job_cancelled_in_the_queue_has_only_an_end(client, login) -> None:
    made = client.post("/v1/inference", json={"prompt": "x", "stream": True}, headers=login()).json
    client.post(f"/v1/jobs/{made['id']}/cancel", headers=login())
    body = client.get(f"/v1/jobs/{made['id']}/stream", headers=login()).data
    (event,) = blocks(body)
    assert b'"state":"cancelled"' in event


def test_a_stream_longer_than_one_read(client, login, api, running, monkeypatch) -> None:
    monkeypatch.setattr("tasks.streams.MOST_EVENTS", 3)
    monkeypatch.setattr("app.following.MOST_EVENTS", 3)
    job = running()
    for number in range(1, 9):
        add(api, job, number, str(number))
    finish(api, job)
    assert len(blocks(get(client, login, job))) == 9


def test_signs_of_life(client, login, api, running, monkeypatch) -> None:
    monkeypatch.setattr("app.routes.streams.PING_SECONDS", 0.01)
    job = running()
    answer = client.get(f"/v1/jobs/{job.id}/stream", headers=login(), buffered=False)
    chunks = iter(answer.response)
    next(chunks)
    assert next(chunks) == next(chunks) == b": ping\n\n"
    answer.close()


def test_leaving_cancels_only_when_asked(client, login, api, running) -> None:
    ledger = api.extensions["inferenceflow"].ledger
    for query, state in (("", JobState.RUNNING), ("?cancel_on_disconnect=true", "cancelled")):
        job = running()
        add(api, job, 1, "x")
        answer = client.get(f"/v1/jobs/{job.id}/stream{query}", headers=login(), buffered=False)
        chunks = iter(answer.response)
        next(chunks)
        next(chunks)
        answer.response.close()
        assert ledger.read(job.id, "acme").job.state == state


def test_leaving_after_the_end_changes_nothing(client, login, api, running) -> None:
    job = running()
    add(api, job, 1, "x")
    answer = client.get(
        f"/v1/jobs/{job.id}/stream?cancel_on_disconnect=true", headers=login(), buffered=False
    )
    chunks = iter(answer.response)
    next(chunks)
    finish(api, job)
    next(chunks)
    answer.response.close()
    ledger = api.extensions["inferenceflow"].ledger
    assert ledger.read(job.id, "acme").job.state is JobState.SUCCEEDED


@pytest.mark.parametrize("event_id", ["x", "1", "1-", "-1", "1-2-3", "(1-1", "9" * 25 + "-0"])
def test_a_bad_event_id_is_refused(client, login, api, running, event_id) -> None:
    job = running()
    answer = client.get(f"/v1/jobs/{job.id}/stream", headers={**login(), "Last-Event-ID": event_id})
    assert answer.status_code == 400
    assert answer.json["type"].endswith(":bad-event-id")


def test_only_the_tenant_can_follow(client, login, running) -> None:
    job = running()
    for job_id, tenant in ((job.id, "other"), ("job_" + "0" * 32, "acme")):
        answer = client.get(f"/v1/jobs/{job_id}/stream", headers=login(tenant=tenant))
        assert answer.status_code == 404
        assert answer.json["type"].endswith(":unknown-job")


def test_a_process_that_stops_lets_its_followers_go(client, login, api, running) -> None:
    job = running()
    add(api, job, 1, "x")
    answer = client.get(f"/v1/jobs/{job.id}/stream", headers=login(), buffered=False)
    chunks = iter(answer.response)
    next(chunks)
    next(chunks)
    api.extensions["inferenceflow"].hub.stop()
    assert list(chunks) == []  # no `end`: the client resumes elsewhere


def test_a_follower_gives_up_when_redis_stays_away(
    redis_url, redis_client, prefix, api, running, monkeypatch
) -> None:
    job = running()
    hasty = create_app(
        make_settings(
            redis_url, prefix, redis_timeout_seconds=0.1, replication_timeout_seconds=0.05
        )
    )
    current = hasty.extensions["inferenceflow"]
    events = following.follow(current, job.id, "acme", ping_seconds=0.01)
    assert next(events) is None
    monkeypatch.setattr(following, "PATIENCE_SECONDS", -1.0)
    redis_client.execute_command("CLIENT", "PAUSE", 600, "ALL")
    with pytest.raises(following.StreamLostError):
        list(events)
    current.hub.stop()


def test_one_tenant_cannot_hold_every_thread(redis_url: str, prefix: str, login: Login) -> None:
    api = create_app(make_settings(redis_url, prefix, max_tenant_held=1))
    client, hub = api.test_client(), api.extensions["inferenceflow"].hub

    def post(path: str, tenant: str, **fields: object) -> int:
        body = {"prompt": "hi"} if "inference" in path else {"messages": MESSAGES, "model": "auto"}
        headers = login(tenant=tenant)
        return client.post(path, json={**body, **fields}, headers=headers).status_code

    with hub.watching("acme", "another-request"):
        assert post("/v1/inference?wait=5", "acme") == 429
        assert post("/v1/chat/completions", "acme") == 429
        assert post("/v1/chat/completions", "acme", stream=True) == 429
        assert client.get("/v1/jobs", headers=login()).json["data"] == []  # nothing was accepted
        assert post("/v1/inference", "acme") == 202
        assert post("/v1/inference?wait=0.1", "other") == 202
    assert post("/v1/inference?wait=0.1", "acme") == 202
    hub.stop()
