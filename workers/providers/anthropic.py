"""Anthropic's messages format.

Format: https://docs.anthropic.com/en/api/messages
"""

from __future__ import annotations

from typing import Any

from tasks.inference import FinishReason, ImagePart, Message, TextPart, Usage
from workers.providers.dialect import (
    DEFAULT_MAX_TOKENS,
    JSON_INSTRUCTION,
    Answer,
    Call,
    Count,
    Request,
    StreamReader,
    Wire,
    finish,
    inline_image,
    joined,
    read_json,
    usage,
)
from workers.providers.errors import InvalidResponse
from workers.providers.failures import in_stream_error

VERSION = "2023-06-01"
FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
    "tool_use": "tool_calls",
}


class _Usage(Wire):
    # Anthropic counts cached input beside `input_tokens`, not in it.
    input_tokens: Count = 0
    output_tokens: Count = 0
    cache_read_input_tokens: Count = 0
    cache_creation_input_tokens: Count = 0


class _Block(Wire):
    type: str = ""
    text: str | None = None


class _Answer(Wire):
    type: str = ""
    model: str | None = None
    content: list[_Block] | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None
    error: Any = None


class _Event(Wire):
    type: str = ""
    message: _Answer | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: Any = None


class _Delta(Wire):
    type: str = ""
    text: str | None = None
    stop_reason: str | None = None


class AnthropicDialect:
    """Claude, by the messages API."""

    status_path = "/models"

    def auth(self, api_key: str) -> dict[str, str]:
        """The key in `x-api-key`."""
        return {"x-api-key": api_key}

    def request(self, call: Call) -> Request:
        """POST /messages."""
        params = call.params
        most = call.spec.max_output if call.spec else DEFAULT_MAX_TOKENS
        body: dict[str, Any] = {
            "model": call.model,
            "max_tokens": params.max_tokens or min(most, DEFAULT_MAX_TOKENS),
            "messages": [_message(message) for message in call.turns],
            **call.sampling(temperature="temperature", top_p="top_p", stop="stop_sequences"),
        }
        if "temperature" in body:
            body["temperature"] = min(body["temperature"], 1.0)  # the format's highest
        system = call.system
        form = params.response_format
        if form is not None and form.type == "json_schema":
            schema = (form.json_schema or {}).get("schema", {})
            body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        elif form is not None and form.type == "json_object":
            # The format has no free JSON mode.
            system = f"{system}\n\n{JSON_INSTRUCTION}".strip()
        if system:
            body["system"] = system
        if call.stream:
            body["stream"] = True
        return Request("/messages", body, {"anthropic-version": VERSION})

    def answer(self, body: bytes, model: str) -> Answer:
        """Read a `message` object."""
        answer = read_json(_Answer, body)
        if answer.error:
            raise in_stream_error(answer.error)
        if answer.content is None:
            raise InvalidResponse("the answer has no content")
        return Answer(
            joined(block.text for block in answer.content if block.type == "text"),
            answer.model or model,
            finish(answer.stop_reason, FINISH),
            _counted(answer.usage or _Usage()),
        )

    def reader(self, model: str) -> StreamReader:
        """Reads events from `message_start` to `message_stop`."""
        return _Reader(model)


class _Reader:
    def __init__(self, model: str) -> None:
        self._model = model
        self._parts: list[str] = []
        self._stop: str | None = None
        self._usage = _Usage()
        self.done = False

    def feed(self, data: str) -> str:
        event = read_json(_Event, data)
        if event.type == "error":
            raise in_stream_error(event.error)
        if event.type == "message_start" and event.message is not None:
            self._model = event.message.model or self._model
            self._usage = event.message.usage or self._usage
        elif event.type == "message_delta":
            if event.delta is not None:
                self._stop = event.delta.stop_reason or self._stop
            if event.usage is not None:
                # Its counts are cumulative; it repeats the input's only in newer versions.
                given = event.usage.model_dump(exclude_unset=True)
                self._usage = self._usage.model_copy(update=given)
        elif event.type == "message_stop":
            self.done = True
        elif event.type == "content_block_delta" and event.delta is not None:
            text = event.delta.text or "" if event.delta.type == "text_delta" else ""
            self._parts.append(text)
            return text
        return ""

    def answer(self) -> Answer:
        return Answer(
            "".join(self._parts), self._model, finish(self._stop, FINISH), _counted(self._usage)
        )


def _message(message: Message) -> dict[str, Any]:
    if isinstance(message.content, str):
        return {"role": message.role, "content": message.content}
    return {"role": message.role, "content": [_part(part) for part in message.content]}


def _part(part: TextPart | ImagePart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    inline = inline_image(part.image_url.url)
    if inline is None:
        return {"type": "image", "source": {"type": "url", "url": part.image_url.url}}
    media_type, data = inline
    return {
        "type": "image",
        "source": {"type": "base64", "media_type": media_type, "data": data},
    }


def _counted(counts: _Usage) -> Usage:
    cached = counts.cache_read_input_tokens
    total = counts.input_tokens + cached + counts.cache_creation_input_tokens
    return usage(total, counts.output_tokens, cached)
