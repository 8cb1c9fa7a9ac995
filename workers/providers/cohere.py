"""Cohere's chat format, version 2.

Format: https://docs.cohere.com/reference/chat
"""

from __future__ import annotations

from typing import Any

from tasks.inference import FinishReason, Message, Usage
from workers.providers.dialect import (
    Answer,
    Call,
    Count,
    Request,
    StreamReader,
    Wire,
    finish,
    joined,
    read_json,
    usage,
)
from workers.providers.errors import InvalidResponse, Overloaded

FINISH: dict[str, FinishReason] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
}
FAILED = ("ERROR", "TIMEOUT")


class _Tokens(Wire):
    input_tokens: Count = 0
    output_tokens: Count = 0


class _Usage(Wire):
    billed_units: _Tokens | None = None
    tokens: _Tokens | None = None
    cached_tokens: Count = 0


class _Text(Wire):
    type: str | None = None
    text: str | None = None


class _Message(Wire):
    content: list[_Text] | _Text | None = None


class _Response(Wire):
    message: _Message | str | None = None
    finish_reason: str | None = None
    usage: _Usage | None = None


class _Delta(Wire):
    message: _Message | None = None
    finish_reason: str | None = None
    usage: _Usage | None = None


class _Event(Wire):
    type: str = ""
    delta: _Delta | None = None


class CohereDialect:
    """Command, by the chat API."""

    status_path = "/models"

    def auth(self, api_key: str) -> dict[str, str]:
        """The key as a bearer token."""
        return {"Authorization": f"Bearer {api_key}"}

    def request(self, call: Call) -> Request:
        """POST /chat."""
        body: dict[str, Any] = {
            "model": call.model,
            "messages": [_message(message) for message in call.messages],
            "stream": call.stream,
            **call.sampling(
                temperature="temperature",
                top_p="p",
                stop="stop_sequences",
                seed="seed",
                frequency_penalty="frequency_penalty",
                presence_penalty="presence_penalty",
            ),
        }
        for penalty in ("frequency_penalty", "presence_penalty"):
            if penalty in body:  # the format's range is 0 to 1
                body[penalty] = min(max(body[penalty], 0.0), 1.0)
        if call.params.max_tokens is not None:
            body["max_tokens"] = call.params.max_tokens
        form = call.params.response_format
        if form is not None and form.type != "text":
            body["response_format"] = {"type": "json_object"}
            if form.json_schema is not None:
                body["response_format"]["json_schema"] = form.json_schema.get("schema", {})
        return Request("/chat", body)

    def answer(self, body: bytes, model: str) -> Answer:
        """Read a chat response."""
        response = read_json(_Response, body)
        if not isinstance(response.message, _Message):
            raise InvalidResponse("the answer has no message")
        _check(response.finish_reason)
        content = response.message.content
        texts = [content] if isinstance(content, _Text) else content or []
        return Answer(
            joined(part.text for part in texts if part.type in (None, "text")),
            model,
            finish(response.finish_reason, FINISH),
            _counted(response.usage),
        )

    def reader(self, model: str) -> StreamReader:
        """Reads events from `message-start` to `message-end`."""
        return _Reader(model)


class _Reader:
    def __init__(self, model: str) -> None:
        self._model = model
        self._parts: list[str] = []
        self._finish: str | None = None
        self._usage: _Usage | None = None
        self.done = False

    def feed(self, data: str) -> str:
        if data.strip() == "[DONE]":
            return ""
        event = read_json(_Event, data)
        if event.delta is None:
            return ""
        if event.type == "message-end":
            _check(event.delta.finish_reason)
            self._finish, self._usage = event.delta.finish_reason, event.delta.usage
            self.done = True
        elif event.type == "content-delta" and event.delta.message is not None:
            content = event.delta.message.content
            text = content.text or "" if isinstance(content, _Text) else ""
            self._parts.append(text)
            return text
        return ""

    def answer(self) -> Answer:
        return Answer(
            "".join(self._parts), self._model, finish(self._finish, FINISH), _counted(self._usage)
        )


def _message(message: Message) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    if isinstance(message.content, str):
        return {"role": role, "content": message.content}
    return {"role": role, "content": [part.model_dump() for part in message.content]}


def _check(reason: str | None) -> None:
    if reason in FAILED:
        raise Overloaded(f"Cohere ended the answer with {reason}")


def _counted(counts: _Usage | None) -> Usage:
    # Billed units leave out what Cohere adds to the prompt, and are what it charges for.
    counts = counts or _Usage()
    counted = counts.billed_units or counts.tokens or _Tokens()
    return usage(counted.input_tokens, counted.output_tokens, counts.cached_tokens)
