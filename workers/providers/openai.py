"""OpenAI's chat completions format, and that of every server which speaks it.

Format: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from typing import Any

from tasks.inference import FinishReason, ImagePart, Message, TextPart, Usage
from workers.providers.dialect import (
    Answer,
    Call,
    Count,
    Request,
    StreamReader,
    Wire,
    finish,
    read_json,
    usage,
)
from workers.providers.errors import ContentFiltered, InvalidResponse
from workers.providers.failures import in_stream_error

FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}


class _CachedTokens(Wire):
    cached_tokens: Count = 0


class _Usage(Wire):
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    prompt_tokens_details: _CachedTokens | None = None


class _Message(Wire):
    content: str | None = None
    refusal: str | None = None


class _Choice(Wire):
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | None = None


class _Completion(Wire):
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


class OpenAIDialect:
    """OpenAI itself; with `compatible`, the older names that other servers understand."""

    status_path = "/models"

    def __init__(self, *, compatible: bool = False) -> None:
        self._compatible = compatible

    def auth(self, api_key: str) -> dict[str, str]:
        """The key as a bearer token."""
        return {"Authorization": f"Bearer {api_key}"}

    def request(self, call: Call) -> Request:
        """POST /chat/completions."""
        body: dict[str, Any] = {
            "model": call.model,
            "messages": [self._message(message) for message in call.messages],
            **call.sampling(
                temperature="temperature",
                top_p="top_p",
                stop="stop",
                seed="seed",
                frequency_penalty="frequency_penalty",
                presence_penalty="presence_penalty",
            ),
        }
        if call.params.max_tokens is not None:
            name = "max_tokens" if self._compatible else "max_completion_tokens"
            body[name] = call.params.max_tokens
        form = call.params.response_format
        if form is not None and form.type != "text":
            body["response_format"] = form.model_dump(exclude_none=True)
        if call.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return Request("/chat/completions", body)

    def _message(self, message: Message) -> dict[str, Any]:
        role = message.role
        if self._compatible and role == "developer":
            role = "system"
        if isinstance(message.content, str):
            return {"role": role, "content": message.content}
        return {"role": role, "content": [_part(part) for part in message.content]}

    def answer(self, body: bytes, model: str) -> Answer:
        """Read a `chat.completion` object."""
        completion = read_json(_Completion, body)
        if completion.error:
            raise in_stream_error(completion.error)
        if not completion.choices or completion.choices[0].message is None:
            raise InvalidResponse("the answer has no choices")
        choice = completion.choices[0]
        message = choice.message or _Message()
        if message.refusal and not message.content:
            raise ContentFiltered("the model refused to answer")
        return Answer(
            message.content or "",
            completion.model or model,
            finish(choice.finish_reason, FINISH),
            _counted(completion.usage),
        )

    def reader(self, model: str) -> StreamReader:
        """Reads `chat.completion.chunk` objects up to `[DONE]`."""
        return _Reader(model)


class _Reader:
    def __init__(self, model: str) -> None:
        self._model = model
        self._parts: list[str] = []
        self._refused = False
        self._finish: str | None = None
        self._usage: _Usage | None = None
        self._ended = False

    def feed(self, data: str) -> str:
        if data.strip() == "[DONE]":
            self._ended = True
            return ""
        chunk = read_json(_Completion, data)
        if chunk.error:
            raise in_stream_error(chunk.error)
        self._model = chunk.model or self._model
        self._usage = chunk.usage or self._usage
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        self._finish = choice.finish_reason or self._finish
        delta = choice.delta or _Message()
        self._refused = self._refused or bool(delta.refusal)
        text = delta.content or ""
        self._parts.append(text)
        return text

    @property
    def done(self) -> bool:
        return self._ended or self._finish is not None

    def answer(self) -> Answer:
        text = "".join(self._parts)
        if self._refused and not text:
            raise ContentFiltered("the model refused to answer")
        return Answer(text, self._model, finish(self._finish, FINISH), _counted(self._usage))


def _part(part: TextPart | ImagePart) -> dict[str, Any]:
    return part.model_dump()


def _counted(counts: _Usage | None) -> Usage:
    counts = counts or _Usage()
    cached = counts.prompt_tokens_details.cached_tokens if counts.prompt_tokens_details else 0
    return usage(counts.prompt_tokens, counts.completion_tokens, cached)
