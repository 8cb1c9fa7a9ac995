"""Every provider's answers, whole and streamed, come out in one shape."""

from __future__ import annotations

import pytest

from tasks.inference import Message, TextPart
from tests.fakes import shapes
from tests.fakes.provider import FakeProvider
from tests.providers.conftest import KEY, Ask
from workers.providers.errors import (
    BadRequest,
    ContentFiltered,
    InvalidResponse,
    ProviderUnreachable,
)
from workers.providers.provider import HttpProvider

PNG = "data:image/png;base64,iVBORw0KGgo="


def test_a_whole_answer(ask: Ask, name: str) -> None:
    got = ask("one two three")
    assert (got.text, got.provider, got.finish_reason) == ("one two three", name, "stop")
    assert (got.usage.input_tokens, got.usage.output_tokens) == (6, 3)
    assert got.usage.cached_tokens == 2
    assert got.first_token_seconds is None
    assert 0 < got.latency < 20
    assert got.cost > 0 or name == "local"


def test_a_streamed_answer_equals_the_whole_one(ask: Ask) -> None:
    pieces: list[str] = []
    whole, streamed = ask("one two three"), ask("one two three", on_delta=pieces.append)
    assert pieces == ["one ", "two ", "three"]
    assert (streamed.text, streamed.usage, streamed.finish_reason, streamed.model) == (
        whole.text,
        whole.usage,
        whole.finish_reason,
        whole.model,
    )
    assert streamed.first_token_seconds is not None
    assert streamed.first_token_seconds <= streamed.latency


@pytest.mark.parametrize("on_delta", [None, lambda _: None], ids=["whole", "stream"])
def test_an_answer_cut_by_max_tokens_says_so(ask: Ask, fake: FakeProvider, on_delta: None) -> None:
    fake.behave(mode="length", text="half an")
    assert ask(on_delta=on_delta).finish_reason == "length"


@pytest.mark.parametrize("on_delta", [None, lambda _: None], ids=["whole", "stream"])
def test_max_tokens_used_up_before_the_first_word_is_a_bad_request(
    ask: Ask, fake: FakeProvider, on_delta: None
) -> None:
    fake.behave(mode="length")
    with pytest.raises(BadRequest, match="raise it"):
        ask(on_delta=on_delta)


@pytest.mark.parametrize("on_delta", [None, lambda _: None], ids=["whole", "stream"])
def test_an_empty_answer_is_never_a_success(ask: Ask, fake: FakeProvider, on_delta: None) -> None:
    fake.behave(mode="empty")
    with pytest.raises(InvalidResponse, match="empty"):
        ask(on_delta=on_delta)


@pytest.mark.parametrize("on_delta", [None, lambda _: None], ids=["whole", "stream"])
def test_a_content_filter_stop(ask: Ask, fake: FakeProvider, name: str, on_delta: None) -> None:
    fake.behave(mode="filtered")
    # Cohere documents no such finish reason: what it filters comes back empty.
    with pytest.raises(InvalidResponse if name == "cohere" else ContentFiltered):
        ask(on_delta=on_delta)


@pytest.mark.parametrize("on_delta", [None, lambda _: None], ids=["whole", "stream"])
def test_a_connection_cut_in_the_middle_is_no_answer(
    ask: Ask, fake: FakeProvider, on_delta: None
) -> None:
    fake.behave(mode="cut")
    with pytest.raises(ProviderUnreachable):
        ask("a long answer in many words", on_delta=on_delta)


def test_what_on_delta_raises_passes_through(ask: Ask) -> None:
    def full(_: str) -> None:
        raise BrokenPipeError("the client has left")

    with pytest.raises(BrokenPipeError, match="the client has left"):
        ask(on_delta=full)


def test_a_stream_that_drips_byte_by_byte_is_read(ask: Ask, fake: FakeProvider) -> None:
    fake.behave(mode="drip_body")
    assert ask("grüße 世界", on_delta=lambda _: None).text == "grüße 世界"


def test_a_server_that_ignores_stream_is_understood(ask: Ask, fake: FakeProvider) -> None:
    plain = ask("hello there")
    fake.behave(mode="status", status=200, body=_whole(fake, plain.model, "hello there"))
    pieces: list[str] = []
    got = ask("hello there", on_delta=pieces.append)
    assert (got.text, pieces) == ("hello there", ["hello there"])


def _whole(fake: FakeProvider, model: str, text: str) -> bytes:
    return shapes.whole(fake.seen[-1].kind, text, model, "stop", (6, 3))


def test_the_key_is_in_a_header_only(
    ask: Ask, fake: FakeProvider, name: str, adapters: dict[str, HttpProvider]
) -> None:
    ask()
    seen = fake.seen[-1]
    assert KEY in " ".join(seen.headers.values())
    assert KEY not in seen.path
    assert KEY not in str(seen.body)
    assert KEY not in repr(adapters[name]) + str(vars(adapters[name])["_spec"])


def test_the_conversation_is_sent_in_the_providers_shape(
    ask: Ask, fake: FakeProvider, name: str
) -> None:
    ask(
        [
            Message(role="system", content="Be brief."),
            Message(role="user", content="Hi"),
            Message(role="assistant", content="Hello"),
            Message(role="developer", content="In French."),
            Message(
                role="user",
                content=[TextPart(type="text", text="Again"), TextPart(type="text", text="please")],
            ),
        ],
        max_tokens=50,
        temperature=0.5,
        stop=["END"],
        seed=7,
    )
    body, path = fake.seen[-1].body, fake.seen[-1].path
    parts = [{"type": "text", "text": "Again"}, {"type": "text", "text": "please"}]
    if name == "google":
        assert path == "/v1/models/gemini-3.8-flash:generateContent"
        assert body == {
            "systemInstruction": {"parts": [{"text": "Be brief.\n\nIn French."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "Hi"}]},
                {"role": "model", "parts": [{"text": "Hello"}]},
                {"role": "user", "parts": [{"text": "Again"}, {"text": "please"}]},
            ],
            "generationConfig": {
                "temperature": 0.5,
                "stopSequences": ["END"],
                "seed": 7,
                "maxOutputTokens": 50,
            },
        }
    elif name == "anthropic":
        assert path == "/v1/messages"
        assert fake.seen[-1].headers["anthropic-version"] == "2023-06-01"
        assert body == {
            "model": "claude-haiku-5-5",  # takes no temperature and no seed
            "max_tokens": 50,
            "stop_sequences": ["END"],
            "system": "Be brief.\n\nIn French.",
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
                {"role": "user", "content": parts},
            ],
        }
    else:
        roles = [message["role"] for message in body["messages"]]
        kept = "developer" if name == "openai" else "system"
        assert roles == ["system", "user", "assistant", kept, "user"]
        assert body["messages"][-1]["content"] == parts
        assert (body["temperature"], body["seed"]) == (0.5, 7)
        assert body["stop_sequences" if name == "cohere" else "stop"] == ["END"]
        assert body["max_completion_tokens" if name == "openai" else "max_tokens"] == 50


def test_json_by_a_schema(ask: Ask, fake: FakeProvider, name: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    ask(
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": schema, "strict": True},
        }
    )
    body = fake.seen[-1].body
    sent = {
        "google": lambda: body["generationConfig"]["responseJsonSchema"],
        "anthropic": lambda: body["output_config"]["format"]["schema"],
        "cohere": lambda: body["response_format"]["json_schema"],
    }.get(name, lambda: body["response_format"]["json_schema"]["schema"])()
    assert sent == schema


def test_any_json(ask: Ask, fake: FakeProvider, name: str) -> None:
    ask(response_format={"type": "json_object"})
    body = fake.seen[-1].body
    if name == "google":
        assert body["generationConfig"] == {"responseMimeType": "application/json"}
    elif name == "anthropic":
        assert "JSON object" in body["system"]
    else:
        assert body["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize("url", [PNG, "https://images.example/cat.png"], ids=["data", "https"])
def test_images(ask: Ask, fake: FakeProvider, name: str, url: str) -> None:
    image = {"type": "image_url", "image_url": {"url": url}}
    fake.behave(text="a cat")
    ask([Message.model_validate({"role": "user", "content": [image]})])
    body = fake.seen[-1].body
    if name == "google":
        part = body["contents"][0]["parts"][0]
        assert part == (
            {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}
            if url is PNG
            else {"fileData": {"mimeType": "image/png", "fileUri": url}}
        )
    elif name == "anthropic":
        source = body["messages"][0]["content"][0]["source"]
        assert source == (
            {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
            if url is PNG
            else {"type": "url", "url": url}
        )
    else:
        assert body["messages"][0]["content"][0]["image_url"]["url"] == url


@pytest.mark.parametrize("url", ["data:image/png,raw", "data:image/png;base64,@@"])
@pytest.mark.parametrize("name", ["anthropic", "google"], indirect=True)
def test_a_broken_data_url_is_a_bad_request(ask: Ask, fake: FakeProvider, url: str) -> None:
    image = {"type": "image_url", "image_url": {"url": url}}
    with pytest.raises(BadRequest):
        ask([Message.model_validate({"role": "user", "content": [image]})])
    assert fake.count == 0


def test_text_that_is_not_unicode_is_a_bad_request(ask: Ask, fake: FakeProvider) -> None:
    with pytest.raises(BadRequest):
        ask([Message.model_construct(role="user", content="\ud800")])
    assert fake.count == 0


@pytest.mark.parametrize("name", ["anthropic", "cohere"], indirect=True)
def test_values_beyond_the_formats_range_are_clamped(
    ask: Ask, fake: FakeProvider, name: str
) -> None:
    ask(model="unknown-model", temperature=1.7, frequency_penalty=-1.0)
    body = fake.seen[-1].body
    if name == "anthropic":
        assert body["temperature"] == 1.0
        assert body["max_tokens"] == 16_384
    else:
        assert body["frequency_penalty"] == 0.0


@pytest.mark.parametrize("name", ["openai", "local"], indirect=True)
@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_in_openais_own_field(ask: Ask, fake: FakeProvider, stream: bool) -> None:
    part = '{"content": null, "refusal": "I cannot help with that."}'
    key = "delta" if stream else "message"
    body = f'{{"choices": [{{"{key}": {part}, "finish_reason": "stop"}}]}}'
    if stream:
        body = f"data: {body}\n\ndata: [DONE]\n\n"
    fake.behave(mode="raw", body=body.encode())
    with pytest.raises(ContentFiltered):
        ask(on_delta=(lambda _: None) if stream else None)


@pytest.mark.parametrize("name", ["google"], indirect=True)
def test_a_prompt_that_google_blocks(ask: Ask, fake: FakeProvider) -> None:
    fake.behave(mode="raw", body=b'{"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}')
    with pytest.raises(ContentFiltered):
        ask()


@pytest.mark.parametrize("name", ["google"], indirect=True)
def test_thoughts_are_paid_for_but_not_shown(ask: Ask, fake: FakeProvider) -> None:
    fake.behave(
        mode="raw",
        body=b'{"candidates": [{"content": {"parts": [{"text": "hmm", "thought": true},'
        b'{"text": "42"}]}, "finishReason": "STOP"}], "usageMetadata": '
        b'{"promptTokenCount": 5, "candidatesTokenCount": 1, "thoughtsTokenCount": 30}}',
    )
    got = ask()
    assert (got.text, got.usage.output_tokens) == ("42", 31)


def test_status_is_asked_of_the_provider(
    adapters: dict[str, HttpProvider], fake: FakeProvider, name: str
) -> None:
    assert adapters[name].get_provider_status().reachable
    fake.behave(mode="status", status=401, message=f"wrong key {KEY}")
    status = adapters[name].get_provider_status()
    assert (status.configured, status.reachable) == (True, False)
    assert "401" in status.detail
    assert KEY not in status.detail


def test_cost_is_estimated_from_prompt_and_max_tokens(
    adapters: dict[str, HttpProvider], name: str
) -> None:
    provider = adapters[name]
    small, large = provider.estimate_cost("hi", 10), provider.estimate_cost("hi " * 1000, 1000)
    assert small < large or name == "local"
