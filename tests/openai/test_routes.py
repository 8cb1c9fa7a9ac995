"""The OpenAI routes over plain HTTP, with a worker's part played by this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from flask.testing import FlaskClient

from app import waiting
from app.api import API, create_app
from app.following import follow
from tasks.inference import Priority
from tasks.jobs import Job, JobState
from tasks.streams import Piece
from tests.api.conftest import Login, client, login, make_settings
from tests.openai.test_shapes import RESULT

__all__ = ["client", "login"]

MODEL = "gemma3-270m"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
Work = Callable[..., None]


@pytest.fixture
def api(redis_url: str, prefix: str) -> Iterator[API]:
    app = create_app(make_settings(redis_url, prefix, openai_wait_seconds=5))
    yield app
    app.extensions["inferenceflow"].hub.stop()


@pytest.fixture
def work(api: API) -> Iterator[Work]:
    """Plays a worker for the next job, in a thread."""
    current = api.extensions["inferenceflow"]
    threads = []

    def claim(lane: Priority) -> Job:
        pause = threading.Event()
        for _ in range(1000):
            job: Job | None = current.ledger.claim(lane, "worker", 30)
            if job is not None:
                return job
            pause.wait(0.01)
        raise AssertionError("no job came")

    def run(pieces: list[str | None], state: JobState, lane: Priority, error: str) -> None:
        job = claim(lane)
        for seq, text in enumerate(pieces, 1):
            kind: Any = "restart" if text is None else "delta"
            current.streams.append([Piece(job.id, job.fence, seq, kind, text or "")])
        if state is JobState.SUCCEEDED:
            whole = "".join(part for part in pieces if part is not None)
            answer = orjson.dumps({**RESULT, "response": whole.rpartition("|")[2] or "hello you"})
            current.ledger.finish(job, state, result=answer)
        else:
            told = orjson.dumps({"type": error, "message": "why"})
            current.ledger.finish(job, state, error=told)

    def start(
        *pieces: str | None,
        state: JobState = JobState.SUCCEEDED,
        lane: Priority = Priority.NORMAL,
        error: str = "",
    ) -> None:
        thread = threading.Thread(target=run, args=(list(pieces), state, lane, error))
        thread.start()
        threads.append(thread)

    yield start
    for thread in threads:
        thread.join()


def sse(body: bytes) -> list[Any]:
    """The data of each event; [DONE] as it is."""
    found = []
    for block in body.split(b"\n\n"):
        for line in block.split(b"\n"):
            if line.startswith(b"data: "):
                data = line.removeprefix(b"data: ")
                found.append("[DONE]" if data == b"[DONE]" else orjson.loads(data))
    return found


def post(client: FlaskClient, login: Login, path: str, body: Any, **headers: str) -> Any:
    return client.post(path, json=body, headers={**login(), **headers})


def test_a_whole_completion(client, login, work) -> None:
    work(lane=Priority.HIGH)
    answer = post(client, login, "/v1/chat/completions", {**CHAT, "service_tier": "priority"})
    assert answer.status_code == 200
    assert answer.json["choices"][0]["message"]["content"] == "hello you"
    assert answer.headers["X-Job-ID"].removeprefix("job_") in answer.json["id"]
    assert answer.headers["X-Cache"] == "miss"
    assert answer.headers["X-Request-ID"]


def test_a_streamed_completion(client, login, work) -> None:
    work("one ", "two")
    answer = post(client, login, "/v1/chat/completions", {**CHAT, "stream": True})
    assert answer.mimetype == "text/event-stream"
    *chunks, done = sse(answer.data)
    assert done == "[DONE]"
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == [
        "",
        "one ",
        "two",
        None,
    ]


def test_a_restart_with_the_same_text_is_not_seen(client, login, work) -> None:
    work("one ", "two", None, "one t", "wo three")
    answer = post(client, login, "/v1/chat/completions", {**CHAT, "stream": True})
    *chunks, done = sse(answer.data)
    assert done == "[DONE]"
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text == "one two three"


def test_a_restart_with_another_text_ends_the_stream(client, login, work) -> None:
    work("one ", None, "another")
    answer = post(client, login, "/v1/chat/completions", {**CHAT, "stream": True})
    *_, last = sse(answer.data)
    assert last["error"]["code"] == "stream_restarted"
    assert answer.headers["X-Job-ID"] in last["error"]["message"]


def test_a_failure_after_text_is_told_in_the_stream(client, login, work) -> None:
    work("one ", state=JobState.FAILED, error="all_providers_failed")
    answer = post(client, login, "/v1/chat/completions", {**CHAT, "stream": True})
    *_, last = sse(answer.data)
    assert last["error"]["code"] == "all_providers_failed"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("state", "error", "status"),
    [
        (JobState.FAILED, "context_too_long", 400),
        (JobState.FAILED, "all_providers_failed", 502),
        (JobState.EXPIRED, "deadline", 504),
        (JobState.CANCELLED, "cancelled", 409),
    ],
)
def test_a_failure_before_any_text_is_a_status(
    client, login, work, stream, state, error, status
) -> None:
    work(state=state, error=error)
    answer = post(client, login, "/v1/chat/completions", {**CHAT, "stream": stream})
    assert answer.status_code == status
    assert answer.json["error"]["message"] == "why"
    assert answer.headers["X-Should-Retry"].lower() == "false"
    assert answer.headers["X-Job-ID"].startswith("job_")


def test_a_wait_that_is_too_short_names_the_job(client, login, work) -> None:
    headers = {"X-Stainless-Read-Timeout": "1.05", "X-Stainless-Retry-Count": "0"}
    answer = post(client, login, "/v1/chat/completions", CHAT, **headers)
    assert answer.status_code == 504
    assert answer.json["error"]["code"] == "timeout"
    job_id = answer.headers["X-Job-ID"]
    work()
    headers["X-Stainless-Retry-Count"] = "1"
    headers["X-Stainless-Read-Timeout"] = "60"
    again = post(client, login, "/v1/chat/completions", CHAT, **headers)
    assert again.status_code == 200
    assert again.headers["X-Job-ID"] == job_id


@pytest.mark.parametrize("given", ["soon", "nan", "0.5"])
def test_an_odd_timeout_of_the_client_is_passed_over(client, login, work, given) -> None:
    work()
    answer = post(
        client, login, "/v1/chat/completions", CHAT, **{"X-Stainless-Read-Timeout": given}
    )
    assert answer.status_code == 200


def test_one_key_is_one_completion(client, login, work) -> None:
    work()
    key = {"Idempotency-Key": "k1"}
    first = post(client, login, "/v1/chat/completions", CHAT, **key)
    second = post(client, login, "/v1/chat/completions", CHAT, **key)
    assert first.json == second.json
    changed = post(client, login, "/v1/chat/completions", {**CHAT, "seed": 1}, **key)
    assert changed.status_code == 422
    assert changed.json["error"]["code"] == "idempotency_mismatch"


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'{"model": "m"}'])
def test_bad_bodies_are_errors_in_openais_shape(client, login, body) -> None:
    answer = client.post(
        "/v1/chat/completions", data=body, content_type="application/json", headers=login()
    )
    assert answer.status_code == 400
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}


def test_other_errors_have_openais_shape_on_openais_paths_only(client, login) -> None:
    for path, theirs in (("/v1/chat/nothing", True), ("/v1/nothing", False)):
        answer = client.get(path, headers=login())
        assert answer.status_code == 404
        assert ("error" in answer.json) is theirs
    answer = client.post("/v1/responses", json={})
    assert answer.status_code == 401
    assert answer.json["error"]["code"] == "invalid_api_key"
    answer = post(client, login, "/v1/responses", {"model": MODEL, "input": 7})
    assert answer.status_code == 400


def test_submissions_are_limited(redis_url, prefix, login) -> None:
    app = create_app(make_settings(redis_url, prefix, rate_limit_requests=1))
    client, headers = app.test_client(), login()
    body = {"model": MODEL, "input": "x", "background": True}
    assert client.post("/v1/responses", json=body, headers=headers).status_code == 200
    answer = client.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert answer.status_code == 429
    assert answer.json["error"]["code"] == "rate_limit_exceeded"
    assert answer.headers["Retry-After"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sign of life is due at once."""
    monkeypatch.setitem(follow.__kwdefaults__, "ping_seconds", 0.01)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {**CHAT, "stream": True}),
        ("/v1/responses", {"model": MODEL, "input": "hi", "stream": True}),
    ],
)
def test_a_stream_shows_that_it_lives_and_says_when_it_is_lost(
    client, login, api, path, body, monkeypatch
) -> None:
    monkeypatch.setitem(follow.__kwdefaults__, "ping_seconds", 0.2)
    monkeypatch.setattr(waiting, "DRAIN_SECONDS", 0.5)
    answer = client.post(path, json=body, headers=login(), buffered=False)
    chunks = iter(answer.response)
    while next(chunks) != b": ping\n\n":
        continue
    api.extensions["inferenceflow"].hub.stop()
    rest = b"".join(chunks)
    if path.endswith("completions"):
        assert sse(rest)[-1]["error"]["code"] == "stream_lost"
    else:
        assert sse(rest) == []  # no last event: the client resumes


# --- responses


def make(client: FlaskClient, login: Login, **fields: Any) -> Any:
    body = {"model": MODEL, "input": "hi", **fields}
    return post(client, login, "/v1/responses", body)


def test_a_foreground_response(client, login, work) -> None:
    work()
    made = make(client, login, instructions="be brief")
    assert made.status_code == 200
    assert made.json["status"] == "completed"
    assert made.json["output"][0]["content"][0]["text"] == "hello you"
    found = client.get(f"/v1/responses/{made.json['id']}", headers=login())
    assert found.json == made.json
    assert found.headers["X-Job-ID"].removeprefix("job_") in made.json["id"]


def test_a_resumed_response_stream_is_byte_identical(client, login, work) -> None:
    work("one ", None, "two ", "three|")
    created = make(client, login, stream=True, background=True)
    whole = created.data
    events = sse(whole)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    made = events[0]["response"]["id"]
    url = f"/v1/responses/{made}?stream=true"
    assert client.get(url, headers=login()).data == whole
    for event in events:
        rest = client.get(f"{url}&starting_after={event['sequence_number']}", headers=login()).data
        assert whole.endswith(rest)
        assert sse(rest) == events[event["sequence_number"] + 1 :]


def test_a_foreground_stream_that_fails_at_once_is_a_status(client, login, work) -> None:
    work(state=JobState.FAILED, error="bad_request")
    assert make(client, login, stream=True).status_code == 400


def test_a_background_stream_that_fails_is_an_event(client, login, work) -> None:
    work(state=JobState.FAILED, error="bad_request")
    *_, last = sse(make(client, login, stream=True, background=True).data)
    assert last["type"] == "response.failed"
    assert last["response"]["error"]["code"] == "invalid_prompt"


def test_a_response_is_cancelled_once(client, login, work) -> None:
    made = make(client, login, background=True).json
    for _ in range(2):
        answer = client.post(f"/v1/responses/{made['id']}/cancel", headers=login())
        assert answer.status_code == 200
        assert answer.json["status"] == "cancelled"
    work()
    done = make(client, login).json
    answer = client.post(f"/v1/responses/{done['id']}/cancel", headers=login())
    assert answer.status_code == 400
    assert answer.json["error"]["code"] == "already_ended"


def test_what_is_no_stored_response_is_not_found(client, login, work) -> None:
    work()
    chat = post(client, login, "/v1/chat/completions", CHAT)
    other = make(client, login, background=True).json["id"]
    unstored = "resp_" + chat.headers["X-Job-ID"].removeprefix("job_")
    for response, who in ((unstored, {}), (other, {"tenant": "other"}), ("resp_1", {})):
        for method, tail in (("get", ""), ("post", "/cancel"), ("get", "?stream=true")):
            answer = getattr(client, method)(
                f"/v1/responses/{response}{tail}", headers=login(**who)
            )
            assert answer.status_code == 404
            assert answer.json["error"]["type"] == "invalid_request_error"


def test_what_is_not_to_be_stored_is_soon_gone(client, login, work, api) -> None:
    work()
    made = make(client, login, store=False)
    current = api.extensions["inferenceflow"]
    left = current.job_redis.ttl(current.ledger.key("job", made.headers["X-Job-ID"]))
    assert 0 < left <= 600


def test_a_conversation_goes_on_by_id(client, login, work, api) -> None:
    work()
    first = make(client, login, instructions="only now").json
    work()
    second = make(client, login, input="more", previous_response_id=first["id"])
    assert second.json["previous_response_id"] == first["id"]
    ledger = api.extensions["inferenceflow"].ledger
    request = ledger.read(second.headers["X-Job-ID"], "acme").job.parsed_request()
    turns = [(turn.role, turn.text) for turn in request.conversation()]
    assert turns == [("user", "hi"), ("assistant", "hello you"), ("user", "more")]


def test_a_conversation_cannot_go_on_from_nothing(client, login, work) -> None:
    queued = make(client, login, background=True).json["id"]
    for previous, code in (
        ("resp_" + "0" * 32, "previous_response_not_found"),
        (queued, "invalid_value"),
    ):
        answer = make(client, login, previous_response_id=previous)
        assert answer.status_code == 400
        assert answer.json["error"]["code"] == code
        assert answer.json["error"]["param"] == "previous_response_id"


def test_models_are_listed(client, login) -> None:
    listed = client.get("/v1/models", headers=login()).json
    assert listed["object"] == "list"
    assert client.get(f"/v1/models/{MODEL}", headers=login()).json in listed["data"]
    missing = client.get("/v1/models/some/other", headers=login())
    assert missing.status_code == 404
    assert missing.json["error"]["code"] == "model_not_found"


def test_the_document_names_the_routes(client) -> None:
    paths = client.get("/openapi.json").json["paths"]
    assert {
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/responses/{response_id}",
        "/v1/responses/{response_id}/cancel",
        "/v1/models",
        "/v1/models/{model}",
        "/v1/jobs/{job_id}/stream",
    } <= set(paths)
