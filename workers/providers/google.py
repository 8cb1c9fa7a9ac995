"""Google's Gemini format (generateContent).

Format: https://ai.google.dev/api/generate-content
"""

from __future__ import annotations

import mimetypes
from typing import Any
from urllib.parse import quote, urlsplit

from tasks.inference import FinishReason, ImagePart, Message, TextPart, Usage
from workers.providers.dialect import (
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
from workers.providers.errors import ContentFiltered, InvalidResponse
from workers.providers.failures import in_stream_error

FINISH: dict[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
}


class _Part(Wire):
    text: str | None = None
    thought: bool | None = None


class _Content(Wire):
    parts: list[_Part] | None = None


class _Candidate(Wire):
    content: _Content | None = None
    finishReason: str | None = None  # noqa: N815 - the format's own name


class _Feedback(Wire):
    blockReason: str | None = None  # noqa: N815


class _Usage(Wire):
    promptTokenCount: Count = 0  # noqa: N815
    candidatesTokenCount: Count = 0  # noqa: N815
    thoughtsTokenCount: Count = 0  # noqa: N815
    cachedContentTokenCount: Count = 0  # noqa: N815


class _Response(Wire):
    candidates: list[_Candidate] | None = None
    promptFeedback: _Feedback | None = None  # noqa: N815
    usageMetadata: _Usage | None = None  # noqa: N815
    modelVersion: str | None = None  # noqa: N815
    error: Any = None


class GoogleDialect:
    """Gemini, by the generateContent API."""

    status_path = "/models"

    def auth(self, api_key: str) -> dict[str, str]:
        """The key in a header: the `?key=` that Google also takes would end up in logs."""
        return {"x-goog-api-key": api_key}

    def request(self, call: Call) -> Request:
        """POST /models/{model}:generateContent, or :streamGenerateContent."""
        config = call.sampling(
            temperature="temperature",
            top_p="topP",
            stop="stopSequences",
            seed="seed",
            frequency_penalty="frequencyPenalty",
            presence_penalty="presencePenalty",
        )
        if call.params.max_tokens is not None:
            config["maxOutputTokens"] = call.params.max_tokens
        form = call.params.response_format
        if form is not None and form.type != "text":
            config["responseMimeType"] = "application/json"
            if form.json_schema is not None:
                config["responseJsonSchema"] = form.json_schema.get("schema", {})
        body: dict[str, Any] = {"contents": [_content(message) for message in call.turns]}
        if call.system:
            body["systemInstruction"] = {"parts": [{"text": call.system}]}
        if config:
            body["generationConfig"] = config
        verb = "streamGenerateContent?alt=sse" if call.stream else "generateContent"
        return Request(f"/models/{quote(call.model, safe='')}:{verb}", body)

    def answer(self, body: bytes, model: str) -> Answer:
        """Read a GenerateContentResponse."""
        reader = _Reader(model)
        reader.take(read_json(_Response, body))
        if not reader.done:
            raise InvalidResponse("the answer has no finished candidate")
        return reader.answer()

    def reader(self, model: str) -> StreamReader:
        """Reads one GenerateContentResponse an event, until one has a finish reason."""
        return _Reader(model)


class _Reader:
    def __init__(self, model: str) -> None:
        self._model = model
        self._parts: list[str] = []
        self._finish: str | None = None
        self._usage = _Usage()

    def feed(self, data: str) -> str:
        return self.take(read_json(_Response, data))

    def take(self, response: _Response) -> str:
        if response.error:
            raise in_stream_error(response.error)
        if response.promptFeedback is not None and response.promptFeedback.blockReason:
            raise ContentFiltered("Google blocked the prompt")
        self._model = response.modelVersion or self._model
        self._usage = response.usageMetadata or self._usage
        if not response.candidates:
            return ""
        candidate = response.candidates[0]
        self._finish = candidate.finishReason or self._finish
        parts = (candidate.content.parts if candidate.content else None) or []
        text = joined(part.text for part in parts if not part.thought)
        self._parts.append(text)
        return text

    @property
    def done(self) -> bool:
        return self._finish is not None

    def answer(self) -> Answer:
        return Answer(
            "".join(self._parts), self._model, finish(self._finish, FINISH), _counted(self._usage)
        )


def _content(message: Message) -> dict[str, Any]:
    role = "model" if message.role == "assistant" else "user"
    if isinstance(message.content, str):
        return {"role": role, "parts": [{"text": message.content}]}
    return {"role": role, "parts": [_part(part) for part in message.content]}


def _part(part: TextPart | ImagePart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"text": part.text}
    url = part.image_url.url
    inline = inline_image(url)
    if inline is not None:
        media_type, data = inline
        return {"inlineData": {"mimeType": media_type, "data": data}}
    guessed = mimetypes.guess_type(urlsplit(url).path)[0] or "image/jpeg"
    return {"fileData": {"mimeType": guessed, "fileUri": url}}


def _counted(counts: _Usage) -> Usage:
    return usage(
        counts.promptTokenCount,
        counts.candidatesTokenCount + counts.thoughtsTokenCount,
        counts.cachedContentTokenCount,
    )
