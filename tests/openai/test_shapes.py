"""The translations, each by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.openai.chat import ChatCompletionRequest, Chunks, Continuation, DivergedError, completion
from app.openai.errors import error_body, job_failure, speaks_openai, translate
from app.openai.fields import make_submission, refuse
from app.openai.models import model_list, model_object
from app.openai.response_events import EventLog
from app.openai.responses import (
    ResponseRequest,
    conversation_after,
    job_id_of,
    response_id,
    response_object,
    status_of,
    surface_of,
)
from app.problems import Problem
from config.catalogue import load_catalogue
from tasks.inference import ImagePart, InferenceResponse, Priority, TextPart
from tasks.jobs import Job, JobState

HEX = "0123456789abcdef" * 2
RESULT = {
    "response": "hello you", "provider": "local", "model": "m-1", "finish_reason": "stop",
    "latency": 1.0, "tokens_used": 7, "cost": 0.0, "cache_hit": False, "request_id": "r",
    "usage": {"input_tokens": 5, "output_tokens": 2, "cached_tokens": 1},
    "created_at": "2026-01-01T00:00:00Z",
}  # fmt: skip
REQUEST = {
    "messages": [{"role": "user", "content": "hi"}],
    "model_preference": "m",
    "system": "be brief",
    "priority": "high",
    "user_id": "ann",
    "created_at": "2026-01-01T00:00:00Z",
}


def job(**changes: Any) -> Job:
    made = Job(
        id=f"job_{HEX}", tenant="acme", user="ann", lane=Priority.NORMAL,
        state=JobState.SUCCEEDED, request=orjson.dumps(REQUEST), fingerprint="f",
        request_id="r", created_at=1_700_000_000_123, deadline_at=1_700_000_600_000, fence=1,
        attempt=1, max_attempts=3, started_at=1_700_000_001_000, finished_at=1_700_000_002_000,
        not_before=None, worker=None, queued_ms=1, cache_ms=1, provider_ms=1, total_ms=3,
        result=orjson.dumps(RESULT), error=None, attempts=None, traceparent=None, version=1,
        surface=orjson.dumps({"kind": "response", "background": False, "store": True}),
    )  # fmt: skip
    return replace(made, **changes)


def ended(state: JobState, kind: str) -> Job:
    error = orjson.dumps({"type": kind, "message": "why"})
    return job(state=state, result=None, error=error)


# --- errors


@pytest.mark.parametrize(
    ("path", "theirs"),
    [
        ("/v1/chat/completions", True),
        ("/v1/responses/resp_1/cancel", True),
        ("/v1/models", True),
        ("/v1/batches", True),
        ("/v1/batch", False),
        ("/v1/inference", False),
        ("/v1/jobs", False),
    ],
)
def test_which_paths_speak_openai(path: str, theirs: bool) -> None:
    assert speaks_openai(path) is theirs


def test_a_problem_becomes_an_error_object() -> None:
    body, status, headers = translate(
        422, "invalid-request", "bad", "messages.3.content.0.text", {"X-A": "1"}
    )
    assert status == 400
    assert headers == {"X-A": "1"}
    assert orjson.loads(body) == {
        "error": {
            "message": "bad",
            "type": "invalid_request_error",
            "param": "messages[3].content[0].text",
            "code": "invalid_value",
        }
    }


@pytest.mark.parametrize(
    ("status", "problem", "expected"),
    [
        (422, "unknown-model", (404, "invalid_request_error", "model_not_found", "model")),
        (401, "token-expired", (401, "invalid_request_error", "invalid_api_key", None)),
        (429, "rate-limited", (429, "requests", "rate_limit_exceeded", None)),
        (503, "storage-unavailable", (503, "server_error", "storage_unavailable", None)),
        (409, "job-ended", (400, "invalid_request_error", "already_ended", None)),
    ],
)
def test_problems_by_their_openai_names(
    status: int, problem: str, expected: tuple[int, str, str, str | None]
) -> None:
    body, new_status, _ = translate(status, problem, "x", None, {})
    error = orjson.loads(body)["error"]
    assert (new_status, error["type"], error["code"], error["param"]) == expected


def test_libraries_are_told_not_to_repeat_a_conflict() -> None:
    assert translate(409, "idempotency-conflict", "x", None, {})[2] == {"X-Should-Retry": "false"}


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("bad_request", 400),
        ("context_too_long", 400),
        ("content_filtered", 400),
        ("no_capacity", 503),
        ("deadline", 504),
        ("all_providers_failed", 502),
        ("attempts_exhausted", 500),
        ("", 500),
    ],
)
def test_how_failed_jobs_look(kind: str, status: int) -> None:
    assert job_failure(kind).status == status
    assert job_failure(kind).code
    assert error_body(status, "x", code=None, param=None)["error"]["message"] == "x"


# --- fields


def test_fields_that_ask_for_nothing_pass() -> None:
    refuse(None)
    refuse({"n": 1, "tools": [], "audio": None, "whatever": None, "logprobs": False})
    refuse({"stream_options": {"a": 1}}, stream_options={"a": 1})


@pytest.mark.parametrize(
    ("extra", "kind"),
    [({"tools": [{}]}, "unsupported-parameter"), ({"flavour": "mint"}, "unknown-parameter")],
)
def test_other_fields_are_refused_by_name(extra: dict[str, Any], kind: str) -> None:
    with pytest.raises(Problem) as caught:
        refuse(extra, "here.")
    (name,) = extra
    assert caught.value.status == 400
    assert caught.value.kind == kind
    assert caught.value.errors[0].field == f"here.{name}"
    assert f"'here.{name}'" in caught.value.detail


def test_faults_name_the_clients_field() -> None:
    with pytest.raises(Problem) as caught:
        make_submission({"max_tokens": "max_output_tokens"}, prompt="x", max_tokens=0, seed=None)
    assert caught.value.errors[0].field == "max_output_tokens"
    assert "max_output_tokens" in caught.value.detail


# --- chat


def chat(**fields: Any) -> ChatCompletionRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return ChatCompletionRequest.model_validate_json(orjson.dumps(body))


def test_a_chat_request_becomes_a_submission() -> None:
    made = chat(
        max_completion_tokens=7, stop="x", service_tier="flex", stream=True, seed=3,
        metadata={"a": "b"}, cache={"mode": "off"}, deadline_seconds=9,
        response_format={"type": "json_object"},
    ).submission()  # fmt: skip
    assert made.model_preference == "m"
    assert made.max_tokens == 7
    assert made.stop == ["x"]
    assert made.priority is Priority.LOW
    assert made.stream
    assert made.seed == 3
    assert made.metadata == {"a": "b"}
    assert made.cache.mode == "off"
    assert made.deadline_seconds == 9
    assert made.response_format is not None
    assert chat(max_tokens=5, max_completion_tokens=5).submission().max_tokens == 5
    assert chat(stop=["a", "b"]).submission().stop == ["a", "b"]


def test_chat_parts_are_kept() -> None:
    content = [
        {"type": "text", "text": "what is this"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    ]
    (message,) = chat(messages=[{"role": "user", "content": content}]).submission().messages or []
    assert [type(part) for part in message.content] == [TextPart, ImagePart]


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 5, "max_completion_tokens": 6},
        {"stream_options": {"include_obfuscation": True}},
        {"messages": [{"role": "user", "content": "x", "name": "bob"}]},
        {"messages": [{"role": "assistant", "content": "x"}]},
        {"store": True},
    ],
)
def test_chat_requests_that_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(Problem):
        chat(**fields).submission()


def test_a_job_becomes_a_chat_completion() -> None:
    made = completion(job())
    assert made["id"] == f"chatcmpl-{HEX}"
    assert made["created"] == 1_700_000_000
    assert made["model"] == "m-1"
    assert made["service_tier"] == "priority"
    assert made["choices"][0]["message"]["content"] == "hello you"
    assert made["usage"]["total_tokens"] == 7
    other = orjson.dumps({**RESULT, "finish_reason": "other"})
    assert completion(job(result=other))["choices"][0]["finish_reason"] == "stop"


def test_chunks_carry_usage_only_when_asked() -> None:
    response = InferenceResponse.model_validate(RESULT)
    plain, counted = (Chunks(job(), include_usage=asked) for asked in (False, True))
    assert "usage" not in plain.text("x")
    assert [len(chunk["choices"]) for chunk in plain.last(response)] == [1]
    assert counted.first()["usage"] is None
    *_, last = counted.last(response)
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}


@given(st.text(min_size=1), st.data())
def test_the_same_text_after_a_restart_is_shown_once(text: str, data: st.DataObject) -> None:
    shown = ""
    continuation = Continuation()
    for _ in range(data.draw(st.integers(1, 3))):
        cut = data.draw(st.integers(0, len(text)))
        for piece in pieces(data, text[:cut]):
            shown += continuation.grow(piece)
        continuation.restart()
    for piece in pieces(data, text):
        shown += continuation.grow(piece)
    continuation.end()
    assert shown == text


def pieces(data: st.DataObject, text: str) -> list[str]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def test_another_text_after_a_restart_is_an_error() -> None:
    for before, after in (("", "other"), ("hel", "p")):
        continuation = Continuation()
        continuation.grow("hello")
        continuation.restart()
        continuation.grow(before)
        with pytest.raises(DivergedError):
            continuation.grow(after)
    shorter = Continuation()
    shorter.grow("hello")
    shorter.restart()
    assert shorter.grow("hel") == ""
    with pytest.raises(DivergedError):
        shorter.end()


# --- responses


def asked(**fields: Any) -> ResponseRequest:
    return ResponseRequest.model_validate_json(
        orjson.dumps({"model": "m", "input": "hi", **fields})
    )


def test_a_response_request_becomes_a_submission() -> None:
    schema = {"type": "object"}
    request = asked(
        input=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [
                {"type": "input_text", "text": "look"},
                {"type": "input_image", "image_url": "https://example.com/a.png"},
            ]},
        ],
        instructions="sys",
        max_output_tokens=9,
        service_tier="priority",
        text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}},
        background=True,
    )  # fmt: skip
    request.check()
    made = request.submission([])
    assert made.system == "sys"
    assert made.max_tokens == 9
    assert made.priority is Priority.HIGH
    assert made.stream  # it may be followed later
    assert made.response_format is not None
    assert made.response_format.json_schema == {"name": "n", "schema": schema, "strict": True}
    assert made.messages is not None
    assert [type(part) for part in made.messages[1].content] == [TextPart, ImagePart]
    assert orjson.loads(request.surface())["text"]["format"]["schema"] == schema


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning": {"effort": "low"}},
        {"text": {"verbosity": "low"}},
        {"text": {"format": {"type": "text", "colour": "red"}}},
        {"input": [{"role": "user", "content": "x", "colour": "red"}]},
        {"input": [{"role": "user", "content": [
            {"type": "input_text", "text": "x", "colour": "red"}]}]},
        {"background": True, "store": False},
    ],
)  # fmt: skip
def test_response_requests_that_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(Problem):
        asked(**fields).check()


def test_ids_of_responses_and_jobs() -> None:
    assert job_id_of(response_id(f"job_{HEX}")) == f"job_{HEX}"
    for bad in ("", "resp_", f"job_{HEX}", f"resp_{HEX}0", f"resp_{HEX.upper()}"):
        assert job_id_of(bad) is None


@pytest.mark.parametrize(
    ("made", "status"),
    [
        (job(state=JobState.QUEUED, result=None), "queued"),
        (job(state=JobState.RUNNING, result=None), "in_progress"),
        (job(), "completed"),
        (job(result=orjson.dumps({**RESULT, "finish_reason": "length"})), "incomplete"),
        (ended(JobState.FAILED, "bad_request"), "failed"),
        (ended(JobState.EXPIRED, "deadline"), "failed"),
        (ended(JobState.CANCELLED, "cancelled"), "cancelled"),
    ],
)
def test_the_status_of_a_response(made: Job, status: str) -> None:
    assert status_of(made) == status
    shown = response_object(made)
    assert shown["status"] == status
    assert bool(shown["output"]) == (status in ("completed", "incomplete"))
    assert (shown["error"] is not None) == (status == "failed")
    assert (shown["incomplete_details"] is not None) == (status == "incomplete")


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("no_capacity", "rate_limit_exceeded"),
        ("bad_request", "invalid_prompt"),
        ("deadline", "server_error"),
    ],
)
def test_errors_of_responses_are_among_those_known(kind: str, code: str) -> None:
    shown = response_object(ended(JobState.FAILED, kind))
    assert shown["error"] == {"code": code, "message": "why"}


def test_only_responses_are_found_as_responses() -> None:
    assert surface_of(job(surface=None)) is None
    assert surface_of(job(surface=b'{"kind": "other"}')) is None
    assert surface_of(job()) is not None


def test_the_conversation_goes_on_after_an_answer() -> None:
    turns = conversation_after(job())
    assert [(turn.role, turn.text) for turn in turns] == [
        ("user", "hi"),
        ("assistant", "hello you"),
    ]


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_the_event_log_of_an_answer_that_began_anew() -> None:
    log = EventLog(job(state=JobState.RUNNING, result=None))
    events = [
        *log.begin(), *log.restart(), *log.delta("hel"), *log.restart(),
        *log.delta("hello"), *log.delta(" you"), *log.end(job()),
    ]  # fmt: skip
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert types(events) == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    first, second = (event for event in events if event["type"].endswith("item.done"))
    assert (first["output_index"], first["item"]["status"]) == (0, "incomplete")
    assert (second["output_index"], second["item"]["status"]) == (1, "completed")
    assert first["item"]["id"] != second["item"]["id"]
    assert events[-1]["response"]["output"] == [second["item"]]


def test_the_event_log_of_a_background_response() -> None:
    surface = orjson.dumps({"kind": "response", "background": True, "store": True})
    running = job(state=JobState.RUNNING, result=None, surface=surface)
    log = EventLog(running)
    events = [*log.begin(), *log.delta("hello you"), *log.end(job(surface=surface))]
    assert types(events)[:3] == ["created", "queued", "in_progress"]
    assert [event["response"]["status"] for event in events[:3]] == ["queued"] * 2 + ["in_progress"]
    assert all(event["response"]["output"] == [] for event in events[:3])


@pytest.mark.parametrize(
    ("end", "name", "status"),
    [
        (ended(JobState.FAILED, "bad_request"), "failed", "failed"),
        (ended(JobState.CANCELLED, "cancelled"), "failed", "cancelled"),
        (job(result=orjson.dumps({**RESULT, "finish_reason": "length"})), "incomplete",
         "incomplete"),
    ],
)  # fmt: skip
def test_the_event_log_of_other_ends(end: Job, name: str, status: str) -> None:
    log = EventLog(job(state=JobState.RUNNING, result=None))
    events = [*log.begin(), *log.delta("hello you"), *log.end(end)]
    assert types(events)[-1] == name
    assert events[-1]["response"]["status"] == status
    assert events[-2]["item"]["status"] == "incomplete"


# --- models


def test_the_list_of_models() -> None:
    catalogue = load_catalogue()
    listed = model_list(catalogue)
    assert listed["object"] == "list"
    assert {"auto", *catalogue.routes} <= {model["id"] for model in listed["data"]}
    for model in listed["data"]:
        assert model["object"] == "model"
        assert isinstance(model["created"], int)
        assert model == model_object(catalogue, model["id"])
    retired = [model for model in listed["data"] if model.get("retired")]
    assert all(model["successor"] for model in retired)
    with pytest.raises(KeyError):
        model_object(catalogue, "no-such-model")
