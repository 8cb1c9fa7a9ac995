"""Batches through the whole stack: submitted over HTTP, run by workers, answered once a line."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
import requests

from tests.stack import RealStack, eventually

pytestmark = pytest.mark.slow

MODEL = "gemma3-270m"


def line(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "custom_id": f"line-{number}",
        "prompt": f"What is {number} times {number + 7919}?",
        "model_preference": MODEL,
        "cache": {"mode": "off"},
        **fields,
    }


def jsonl(lines: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


def submit(
    stack: RealStack, session: requests.Session, lines: list[dict[str, Any]], **query: str
) -> requests.Response:
    return session.post(
        f"{stack.url}/v1/batch",
        params=query,
        data=jsonl(lines),
        headers={"Content-Type": "application/jsonl"},
    )


def ended(stack: RealStack, session: requests.Session, batch_id: str) -> dict[str, Any]:
    view: dict[str, Any] = {}

    def over() -> bool:
        view.update(session.get(f"{stack.url}/v1/batch/{batch_id}").json())
        return view["state"] in ("completed", "expired", "cancelled")

    eventually(over, seconds=90, what=f"the end of {batch_id}")
    return view


def results(stack: RealStack, session: requests.Session, batch_id: str) -> list[dict[str, Any]]:
    answer = session.get(f"{stack.url}/v1/batch/{batch_id}/results")
    assert answer.status_code == 200
    return [json.loads(one) for one in answer.text.splitlines()]


def test_every_line_is_answered_once_in_order(batch_stack: RealStack) -> None:
    session = batch_stack.session(tenant="order")
    before = batch_stack.provider_calls()["count"]
    lines = [line(number) for number in range(150)]
    accepted = submit(batch_stack, session, lines, metadata='{"run": "7"}')
    assert accepted.status_code == 202, accepted.text
    batch_id = accepted.json()["id"]
    assert accepted.headers["Location"] == f"/v1/batch/{batch_id}"

    view = ended(batch_stack, session, batch_id)
    assert view["state"] == "completed"
    assert view["metadata"] == {"run": "7"}
    assert view["counts"] == {
        "total": 150, "succeeded": 150, "failed": 0, "cancelled": 0, "expired": 0, "open": 0,
    }  # fmt: skip
    found = results(batch_stack, session, batch_id)
    assert [one["custom_id"] for one in found] == [one["custom_id"] for one in lines]
    assert [one["response"]["response"] for one in found] == [one["prompt"] for one in lines]
    assert batch_stack.provider_calls()["count"] - before == 150
    assert batch_stack.redis.hget("if:open", "order") is None


def test_equal_lines_share_one_provider_call(batch_stack: RealStack) -> None:
    session = batch_stack.session(tenant="equal")
    before = batch_stack.provider_calls()["count"]
    asked = {"prompt": "Name a river in Peru.", "cache": {"mode": "exact"}}
    lines = [line(n, **asked, metadata={"n": str(n)}) for n in range(45)]
    lines += [line(100 + n, **asked, temperature=0.5) for n in range(5)]
    batch_id = submit(batch_stack, session, lines).json()["id"]
    view = ended(batch_stack, session, batch_id)
    assert view["counts"]["succeeded"] == 50
    found = results(batch_stack, session, batch_id)
    assert len({one["job_id"] for one in found}) == 2
    assert [one["response"]["metadata"] for one in found[:45]] == [{"n": str(n)} for n in range(45)]
    assert batch_stack.provider_calls()["count"] - before == 2


def test_lines_that_were_answered_before_come_from_the_cache(batch_stack: RealStack) -> None:
    session = batch_stack.session(tenant="again")
    lines = [line(number, cache={"mode": "on"}) for number in range(30)]
    first = submit(batch_stack, session, lines).json()["id"]
    assert ended(batch_stack, session, first)["state"] == "completed"
    before = batch_stack.provider_calls()["count"]
    fresh = {**line(0), "custom_id": "fresh"}  # with the cache off
    again = submit(batch_stack, session, [*lines, fresh]).json()["id"]
    assert ended(batch_stack, session, again)["state"] == "completed"
    found = results(batch_stack, session, again)
    assert [one["response"]["response"] for one in found] == [
        one["prompt"] for one in [*lines, fresh]
    ]
    assert [one["response"]["cache_hit"] for one in found] == [True] * 30 + [False]
    assert batch_stack.provider_calls()["count"] - before == 1
    assert found[0]["response"]["cost"] == 0


def test_a_bad_file_starts_nothing_and_names_every_bad_line(batch_stack: RealStack) -> None:
    session = batch_stack.session(tenant="bad")
    lines = [line(number) for number in range(60)]
    lines[3] = line(3, temperature=9)
    lines[17] = line(17, model_preference="no-such-model")
    lines[40] = line(5)
    lines[58] = line(58, stream=True)
    body = jsonl(lines) + b"{not json}\n"
    answer = session.post(
        f"{batch_stack.url}/v1/batch", data=body, headers={"Content-Type": "application/jsonl"}
    )
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["type"].endswith(":invalid-lines")
    assert problem["detail"].startswith("5 of 61 lines")
    assert [fault["field"] for fault in problem["errors"]] == [
        "line 4: temperature", "line 18: model", "line 41: custom_id", "line 59: stream",
        "line 61",
    ]  # fmt: skip
    assert session.get(f"{batch_stack.url}/v1/batch").json()["data"] == []
    assert session.get(f"{batch_stack.url}/v1/files").json()["data"] == []


def test_an_array_an_object_and_a_form_are_the_same_batch(batch_stack: RealStack) -> None:
    session = batch_stack.session(tenant="forms")
    url = f"{batch_stack.url}/v1/batch"
    lines = [line(number) for number in range(3)]
    uploaded = session.post(
        f"{batch_stack.url}/v1/files",
        data={"purpose": "batch"},
        files={"file": ("in.jsonl", jsonl(lines))},
    ).json()
    array = json.dumps(lines, indent=2)
    answers = [
        session.post(url, data=array, headers={"Content-Type": "application/json"}),
        session.post(url, json={"requests": lines, "priority": "high"}),
        session.post(url, json={"input_file_id": uploaded["id"]}),
        session.post(url, data={"priority": "normal"}, files={"file": ("a", jsonl(lines))}),
        session.post(url, files={"file": ("a", array)}),
    ]
    assert [answer.status_code for answer in answers] == [202] * 5, [a.text for a in answers]
    assert [a.json()["priority"] for a in answers] == ["low", "high", "low", "normal", "low"]
    prompts = [one["prompt"] for one in lines]
    for answer in answers:
        batch_id = answer.json()["id"]
        ended(batch_stack, session, batch_id)
        found = results(batch_stack, session, batch_id)
        assert [one["response"]["response"] for one in found] == prompts


def test_cancel_keeps_what_is_done(batch_stack: RealStack) -> None:
    session = batch_stack.session(tenant="cancel")
    batch_id = submit(batch_stack, session, [line(n) for n in range(1500)]).json()["id"]
    url = f"{batch_stack.url}/v1/batch/{batch_id}"
    eventually(
        lambda: session.get(url).json()["counts"]["succeeded"] >= 30, seconds=60, what="30 lines"
    )
    done = {one["custom_id"] for one in results(batch_stack, session, batch_id)}
    assert len(done) >= 30
    assert session.post(f"{url}/cancel").json()["state"] in ("cancelling", "finalizing")
    view = ended(batch_stack, session, batch_id)
    assert view["state"] == "cancelled"
    counts = view["counts"]
    assert counts["succeeded"] + counts["cancelled"] == 1500
    assert counts["cancelled"] > 0
    found = results(batch_stack, session, batch_id)
    assert len(found) == 1500
    by_state: dict[str, set[str]] = {"succeeded": set(), "cancelled": set()}
    for one in found:
        by_state[one["state"]].add(one["custom_id"])
    assert done <= by_state["succeeded"]
    assert len(by_state["succeeded"]) == counts["succeeded"]
    assert session.post(f"{url}/cancel").status_code == 409


def test_a_repeated_submission_is_the_same_batch(batch_stack: RealStack) -> None:
    session = batch_stack.session(tenant="twice")
    session.headers["Idempotency-Key"] = "nightly-1"
    lines = [line(number) for number in range(5)]
    first = submit(batch_stack, session, lines)
    again = submit(batch_stack, session, lines)
    other = submit(batch_stack, session, lines[:4])
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (first.status_code, again.status_code, other.status_code) == (202, 202, 422)


def test_another_tenant_finds_nothing(batch_stack: RealStack) -> None:
    owner, other = batch_stack.session(tenant="owner"), batch_stack.session(tenant="other")
    batch_id = submit(batch_stack, owner, [line(1)]).json()["id"]
    for method, path in (("GET", ""), ("GET", "/results"), ("POST", "/cancel")):
        answer = other.request(method, f"{batch_stack.url}/v1/batch/{batch_id}{path}")
        assert answer.status_code == 404


def test_openai_batch(batch_stack: RealStack) -> None:
    client = openai.OpenAI(
        base_url=f"{batch_stack.url}/v1", api_key=batch_stack.token(tenant="openai"), max_retries=0
    )
    lines = [
        {
            "custom_id": f"request-{n}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": MODEL,
                "messages": [{"role": "user", "content": f"Say {n * 31}"}],
                "max_completion_tokens": 50,
            },
        }
        for n in range(25)
    ]
    file = client.files.create(file=("in.jsonl", jsonl(lines)), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"job": "nightly"},
    )
    assert batch.status in ("in_progress", "finalizing", "completed")
    eventually(
        lambda: client.batches.retrieve(batch.id).status == "completed", seconds=60, what="the end"
    )
    batch = client.batches.retrieve(batch.id)
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 25, "completed": 25, "failed": 0}
    assert batch.error_file_id is None
    assert batch.output_file_id is not None
    output = [json.loads(one) for one in client.files.content(batch.output_file_id).iter_lines()]
    assert [one["custom_id"] for one in output] == [f"request-{n}" for n in range(25)]
    choice = output[7]["response"]["body"]["choices"][0]
    assert choice["message"]["content"] == "Say 217"
    assert [one.id for one in client.batches.list()] == [batch.id]
    assert client.files.delete(file.id).deleted


def test_openai_batch_with_bad_lines_fails_and_says_why(batch_stack: RealStack) -> None:
    client = openai.OpenAI(
        base_url=f"{batch_stack.url}/v1", api_key=batch_stack.token(tenant="openai2"), max_retries=0
    )
    good = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/responses",
        "body": {"model": MODEL, "input": "Hello"},
    }
    bad = [
        good,
        {**good, "custom_id": "b", "url": "/v1/chat/completions"},
        {**good, "custom_id": "c", "body": {"model": MODEL, "input": "x", "tools": [{"a": 1}]}},
        {**good, "custom_id": "d", "body": {"model": MODEL, "input": "x", "stream": True}},
    ]
    file = client.files.create(file=("in.jsonl", jsonl(bad)), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/responses", completion_window="24h"
    )
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(one.line, one.param) for one in batch.errors.data] == [
        (2, "url"), (3, "body.tools"), (4, "body.stream"),
    ]  # fmt: skip
    with pytest.raises(openai.NotFoundError):
        client.batches.create(
            input_file_id="file-0", endpoint="/v1/responses", completion_window="24h"
        )
    with pytest.raises(openai.BadRequestError):
        client.batches.cancel(batch.id)
