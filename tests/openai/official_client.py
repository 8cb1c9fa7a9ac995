"""What code written for OpenAI does, with the official package; run by test_official_client.py.

    python tests/openai/official_client.py API_URL TOKEN PROVIDER_URL

Prints one JSON object: for each check `ok`, or what went wrong. The package is whichever one the
interpreter finds first, so that old and new ones can be driven.
"""

from __future__ import annotations

import asyncio
import functools
import json
import sys
import threading
import traceback
import urllib.request
from collections.abc import Callable
from typing import Any

import openai

API, TOKEN, PROVIDER = sys.argv[1:4] if len(sys.argv) > 3 else ("", "", "")
MODEL = "gemma3-270m"
UNCACHED: dict[str, Any] = {"cache": {"mode": "off"}}
CHECKS: dict[str, Callable[[openai.OpenAI], None]] = {}


def check(function: Callable[[openai.OpenAI], None]) -> Callable[[openai.OpenAI], None]:
    CHECKS[function.__name__] = function
    return function


def provider(path: str, **body: Any) -> Any:
    data = json.dumps(body).encode() if body else None
    with urllib.request.urlopen(PROVIDER + path, data=data, timeout=5) as answer:
        return json.loads(answer.read())


def behave(**how: Any) -> None:
    provider("/_behave", **{"mode": "ok", **how})


def wait_for(true: Callable[[], bool], what: str) -> None:
    pause = threading.Event()
    for _ in range(300):
        if true():
            return
        pause.wait(0.05)
    raise AssertionError(what)


def refused(kind: type[Any], call: Callable[[], object]) -> Any:
    """The error that a call raises; AssertionError when it raises none."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def ask(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@check
def chat_completion(client: openai.OpenAI) -> None:
    made = client.chat.completions.create(
        model=MODEL, messages=ask("hello there"), max_tokens=9, extra_body=UNCACHED
    )
    assert made.object == "chat.completion"
    assert made.id.startswith("chatcmpl-")
    assert made.choices[0].message.role == "assistant"
    assert made.choices[0].message.content == "hello there"
    assert made.choices[0].finish_reason == "stop"
    assert made.usage is not None
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens > 0


@check
def headers_name_the_job_and_the_cache(client: openai.OpenAI) -> None:
    seen = []
    for _ in range(2):
        raw = client.chat.completions.with_raw_response.create(
            model=MODEL, messages=ask(f"what is cached by {openai.__version__}")
        )
        assert raw.headers["x-request-id"]
        seen.append((raw.headers["x-job-id"], raw.headers["x-cache"]))
    assert seen[0][0] != seen[1][0]  # a repeated question is a new job, answered by the cache
    assert seen[0][1] == "miss"
    assert seen[1][1] == "hit; layer=exact"


@check
def a_conversation(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "system", "content": "be brief"}, *ask("one")]
    first = client.chat.completions.create(model=MODEL, messages=messages, extra_body=UNCACHED)
    messages += [first.choices[0].message, *ask("two")]
    second = client.chat.completions.create(model=MODEL, messages=messages, extra_body=UNCACHED)
    assert second.choices[0].message.content == "two"


@check
def chat_stream(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=ask("one two three four"),
            stream=True,
            stream_options={"include_usage": True},
            extra_body=UNCACHED,
        )
    )
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "one two three four"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4


@check
def chat_stream_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=ask("a helper of the package"), extra_body=UNCACHED
    ) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "a helper of the package"


@check
def asynchronous(client: openai.OpenAI) -> None:
    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key=client.api_key) as other:
            made = await other.chat.completions.create(model=MODEL, messages=ask("later"))
            assert made.choices[0].message.content == "later"
            text = ""
            async for chunk in await other.chat.completions.create(
                model=MODEL, messages=ask("later still"), stream=True, extra_body=UNCACHED
            ):
                text += chunk.choices[0].delta.content or ""
            assert text == "later still"

    asyncio.run(run())


@check
def refusals_name_the_field(client: openai.OpenAI) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"tools": [tool]}, "tools", "unsupported_parameter"),
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"logit_bias": {"1": 2}}, "logit_bias", "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
        ({"user": "u"}, "user", "unsupported_parameter"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"extra_body": {"flavour": "mint"}}, "flavour", "unknown_parameter"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]},
         "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x", "name": "bob"}]},
         "messages[0].name", "unsupported_parameter"),
    ]  # fmt: skip
    for fields, param, code in cases:
        sent = {"model": MODEL, "messages": ask("x"), **fields}
        error = refused(
            openai.BadRequestError, functools.partial(client.chat.completions.create, **sent)
        )
        assert (error.param, error.code) == (param, code), (fields, error.param, error.code)
        assert error.type == "invalid_request_error"


@check
def fields_that_ask_for_nothing_pass(client: openai.OpenAI) -> None:
    made = client.chat.completions.create(
        model=MODEL, messages=ask("x y"), n=1, logprobs=False, tools=[], store=False, user=None,
        tool_choice="none", modalities=["text"], temperature=0.5, top_p=0.9, seed=7, stop="zzz",
        max_completion_tokens=50, metadata={"team": "a"},
    )  # fmt: skip
    assert made.choices[0].message.content == "x y"


@check
def errors(client: openai.OpenAI) -> None:
    error = refused(
        openai.NotFoundError,
        lambda: client.chat.completions.create(model="gpt-no-such", messages=ask("x")),
    )
    assert (error.code, error.param) == ("model_not_found", "model")
    stranger = openai.OpenAI(base_url=client.base_url, api_key="wrong")
    error = refused(openai.AuthenticationError, stranger.models.list)
    assert error.code == "invalid_api_key"


@check
def a_failed_job_is_an_error(client: openai.OpenAI) -> None:
    behave(mode="status", status=400, message="the prompt is odd")
    for stream in (False, True):
        call = functools.partial(
            client.chat.completions.create,
            model=MODEL,
            messages=ask("odd"),
            stream=stream,
            extra_body=UNCACHED,
        )
        error = refused(openai.BadRequestError, call)
        assert error.code == "bad_request"
        assert "the prompt is odd" in str(error)
        assert error.response.headers["x-job-id"].startswith("job_")


@check
def service_tiers(client: openai.OpenAI) -> None:
    tiers: list[Any] = ["priority", "default", "flex"]
    for tier in tiers:
        made = client.chat.completions.create(
            model=MODEL, messages=ask(f"tier {tier}"), service_tier=tier
        )
        assert made.service_tier == tier


@check
def a_retry_is_the_same_job(client: openai.OpenAI) -> None:
    behave(latency=2.5)
    before = provider("/_count")["count"]
    impatient = client.with_options(timeout=1.5, max_retries=8)
    made = impatient.chat.completions.create(
        model=MODEL, messages=ask("slow but once"), extra_body=UNCACHED
    )
    assert made.choices[0].message.content == "slow but once"
    assert provider("/_count")["count"] == before + 1


@check
def a_first_try_is_a_new_job(client: openai.OpenAI) -> None:
    before = provider("/_count")["count"]
    ids = {
        client.chat.completions.create(
            model=MODEL, messages=ask("sample me"), temperature=1, extra_body=UNCACHED
        ).id
        for _ in range(3)
    }
    assert len(ids) == 3
    assert provider("/_count")["count"] == before + 3


@check
def response(client: openai.OpenAI) -> None:
    made = client.responses.create(
        model=MODEL, instructions="be brief", input="say it", max_output_tokens=50,
        metadata={"team": "a"}, extra_body=UNCACHED,
    )  # fmt: skip
    assert made.status == "completed"
    assert made.output_text == "say it"
    assert made.instructions == "be brief"
    assert made.metadata == {"team": "a"}
    assert made.usage is not None
    assert made.usage.total_tokens > 0
    again = client.responses.retrieve(made.id)
    assert again.to_dict() == made.to_dict()


@check
def response_to_items(client: openai.OpenAI) -> None:
    first = client.responses.create(
        model=MODEL,
        input=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "input_text", "text": "first"}]},
        ],
    )
    items: list[Any] = [*ask("before"), *first.output, *ask("after")]
    assert client.responses.create(model=MODEL, input=items).output_text == "after"
    next_ = client.responses.create(
        model=MODEL, input="next", previous_response_id=first.id, extra_body=UNCACHED
    )
    assert next_.output_text == "next"
    assert next_.previous_response_id == first.id
    unknown = "resp_" + "0" * 32
    error = refused(
        openai.BadRequestError,
        lambda: client.responses.create(model=MODEL, input="x", previous_response_id=unknown),
    )
    assert error.param == "previous_response_id"


@check
def background_response(client: openai.OpenAI) -> None:
    behave(interval=0.05)
    made = client.responses.create(
        model=MODEL, input="in the back", background=True, extra_body=UNCACHED
    )
    assert made.status == "queued"
    assert made.output == []
    states = [made.status]

    def done() -> bool:
        now = client.responses.retrieve(made.id)
        states.append(now.status)
        assert now.status == "completed" or now.output == []
        return now.status == "completed"

    wait_for(done, f"completed; saw {states}")
    assert client.responses.retrieve(made.id).output_text == "in the back"


@check
def response_stream(client: openai.OpenAI) -> None:
    events = list(
        client.responses.create(model=MODEL, input="a b c", stream=True, extra_body=UNCACHED)
    )
    assert [event.sequence_number for event in events] == list(range(len(events)))
    types = [event.type for event in events]
    assert types[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert set(types[4:-4]) == {"response.output_text.delta"}
    assert types[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "a b c"
    assert events[0].response.output == []
    assert events[-1].response.output_text == "a b c"


@check
def background_stream_is_resumed(client: openai.OpenAI) -> None:
    behave(interval=0.05)
    seen = []
    stream = client.responses.create(
        model=MODEL, input="a b c d e f g", stream=True, background=True, extra_body=UNCACHED
    )
    for event in stream:
        seen.append(event)
        if event.type == "response.output_text.delta":
            break
    stream.response.close()
    made = seen[0].response
    last = seen[-1].sequence_number
    rest = list(client.responses.retrieve(made.id, stream=True, starting_after=last))
    assert rest[0].sequence_number == last + 1
    with client.responses.stream(response_id=made.id, starting_after=last) as helper:
        helped = list(helper)
        final = helper.get_final_response()
    assert [e.sequence_number for e in helped] == [e.sequence_number for e in rest]
    assert final.output_text == "a b c d e f g"
    whole = list(client.responses.retrieve(made.id, stream=True))
    assert [e.to_dict() for e in seen + rest] == [e.to_dict() for e in whole]


@check
def cancel_response(client: openai.OpenAI) -> None:
    behave(mode="hang")
    left = provider("/_count")["left"]
    made = client.responses.create(model=MODEL, input="never", background=True, extra_body=UNCACHED)
    wait_for(
        lambda: client.responses.retrieve(made.id).status == "in_progress", "the response to run"
    )
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.cancel(made.id).status == "cancelled"
    wait_for(lambda: provider("/_count")["left"] > left, "the provider call to be closed")
    events = list(client.responses.retrieve(made.id, stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].response.status == "cancelled"


@check
def unstored_response(client: openai.OpenAI) -> None:
    made = client.responses.create(model=MODEL, input="forget me", store=False)
    assert made.output_text == "forget me"
    refused(openai.NotFoundError, lambda: client.responses.retrieve(made.id))


@check
def responses_refuse_by_name(client: openai.OpenAI) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"truncation": "auto"}, "truncation"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"background": True, "store": False}, "store"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ]
    for fields, param in cases:
        sent = {"model": MODEL, "input": "x", **fields}
        error = refused(openai.BadRequestError, functools.partial(client.responses.create, **sent))
        assert error.param == param, (fields, error.param)


@check
def models(client: openai.OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert {"auto", "small", MODEL} <= set(listed)
    one: Any = client.models.retrieve(MODEL)
    assert one.owned_by == "local"
    assert one.context_window == 2048
    assert client.models.retrieve("gemini-1.0-pro").id == "gemini-pro"  # by its alias
    error = refused(openai.NotFoundError, lambda: client.models.retrieve("no-such-model"))
    assert error.code == "model_not_found"


def main() -> None:
    results: dict[str, str] = {"version": openai.__version__}
    for name, function in CHECKS.items():
        behave()
        with openai.OpenAI(base_url=f"{API}/v1", api_key=TOKEN, timeout=60) as client:
            try:
                function(client)
            except Exception:  # noqa: BLE001 - whatever it is, it is the result
                results[name] = traceback.format_exc()
            else:
                results[name] = "ok"
    print(json.dumps(results))


if __name__ == "__main__":
    main()
