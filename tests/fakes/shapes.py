"""Answers, streams and errors in each provider's documented shape."""

from __future__ import annotations

import json
from typing import Any, Literal

Kind = Literal["openai", "anthropic", "google", "cohere"]
KINDS: tuple[Kind, ...] = ("openai", "anthropic", "google", "cohere")

FINISH: dict[Kind, dict[str, str]] = {
    "openai": {"stop": "stop", "length": "length", "filtered": "content_filter"},
    "anthropic": {"stop": "end_turn", "length": "max_tokens", "filtered": "refusal"},
    "google": {"stop": "STOP", "length": "MAX_TOKENS", "filtered": "SAFETY"},
    "cohere": {"stop": "COMPLETE", "length": "MAX_TOKENS", "filtered": "COMPLETE"},
}


def whole(kind: Kind, text: str, model: str, finish: str, counts: tuple[int, int]) -> bytes:
    """A complete answer. `finish` is stop, length or filtered; `counts` input, output tokens."""
    reason = FINISH[kind][finish]
    given, made = counts
    body: Any
    if kind == "openai":
        body = {
            "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
            "object": "chat.completion",
            "created": 1741569952,
            "model": model,
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "role": "assistant",
                        "content": text,
                        "refusal": None,
                        "annotations": [],
                    },
                    "logprobs": None,
                    "finish_reason": reason,
                }
            ],
            "usage": {
                "prompt_tokens": given,
                "completion_tokens": made,
                "total_tokens": given + made,
                "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
            },
            "service_tier": "default",
        }
    elif kind == "anthropic":
        body = {
            "id": "msg_013Zva2CMHLNnXjNJJKqJ2EF",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [{"type": "text", "text": text}] if text else [],
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": {
                "input_tokens": given - 2,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 2,
                "output_tokens": made,
            },
        }
    elif kind == "google":
        candidate: dict[str, Any] = {"finishReason": reason, "index": 0}
        if text:
            candidate["content"] = {"parts": [{"text": text}], "role": "model"}
        body = {
            "candidates": [candidate],
            "usageMetadata": {
                "promptTokenCount": given,
                "candidatesTokenCount": made,
                "totalTokenCount": given + made,
                "cachedContentTokenCount": 2,
            },
            "modelVersion": model,
            "responseId": "mAitaLmkHPPlz7IPvtfUqQ4",
        }
    else:
        body = {
            "id": "c14c80c3-18eb-4519-9460-6c92edd8cfb4",
            "finish_reason": reason,
            "message": {
                "role": "assistant",
                "content": [{"type": "text", "text": text}] if text else [],
            },
            "usage": {
                "billed_units": {"input_tokens": given, "output_tokens": made},
                "tokens": {"input_tokens": given + 60, "output_tokens": made},
                "cached_tokens": 2,
            },
        }
    return json.dumps(body).encode()


def stream(
    kind: Kind, pieces: list[str], model: str, finish: str, counts: tuple[int, int]
) -> list[bytes]:
    """The same answer as Server-Sent Events, one block of bytes for each event."""
    reason = FINISH[kind][finish]
    given, made = counts
    if kind == "openai":
        head = {
            "id": "chatcmpl-123",
            "object": "chat.completion.chunk",
            "created": 1694268190,
            "model": model,
        }

        def chunk(delta: dict[str, Any], end: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": end}
            return _data({**head, "choices": [choice], "usage": None})

        counted = {
            "prompt_tokens": given,
            "completion_tokens": made,
            "total_tokens": given + made,
            "prompt_tokens_details": {"cached_tokens": 2},
        }
        return [
            chunk({"role": "assistant", "content": ""}),
            *(chunk({"content": piece}) for piece in pieces),
            chunk({}, reason),
            _data({**head, "choices": [], "usage": counted}),
            b"data: [DONE]\n\n",
        ]
    if kind == "anthropic":
        message = {
            "id": "msg_1nZdL29xx5MUA1yADyHTEsnR8uuvGzszyY",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": given - 2, "cache_read_input_tokens": 2, "output_tokens": 1},
        }
        return [
            _event("message_start", {"message": message}),
            _event(
                "content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}
            ),
            _event("ping", {}),
            *(
                _event(
                    "content_block_delta",
                    {"index": 0, "delta": {"type": "text_delta", "text": piece}},
                )
                for piece in pieces
            ),
            _event("content_block_stop", {"index": 0}),
            _event(
                "message_delta",
                {
                    "delta": {"stop_reason": reason, "stop_sequence": None},
                    "usage": {"output_tokens": made},
                },
            ),
            _event("message_stop", {}),
        ]
    if kind == "google":
        blocks = []
        for index, piece in enumerate([*pieces, ""]):
            candidate: dict[str, Any] = {"index": 0}
            if piece:
                candidate["content"] = {"parts": [{"text": piece}], "role": "model"}
            if index == len(pieces):
                candidate["finishReason"] = reason
            counted = {
                "promptTokenCount": given,
                "candidatesTokenCount": made if index == len(pieces) else 0,
                "cachedContentTokenCount": 2,
            }
            blocks.append(
                _data(
                    {"candidates": [candidate], "usageMetadata": counted, "modelVersion": model},
                    end=b"\r\n\r\n",
                )
            )
        return blocks
    return [
        _event(
            "message-start",
            {
                "id": "29f14a5a-11de-4cae-9800-25e4747408ea",
                "delta": {"message": {"role": "assistant", "content": [], "citations": []}},
            },
        ),
        _event(
            "content-start",
            {"index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}},
        ),
        *(
            _event("content-delta", {"index": 0, "delta": {"message": {"content": {"text": p}}}})
            for p in pieces
        ),
        _event("content-end", {"index": 0}),
        _event(
            "message-end",
            {
                "delta": {
                    "finish_reason": reason,
                    "usage": {
                        "billed_units": {"input_tokens": given, "output_tokens": made},
                        "tokens": {"input_tokens": given + 60, "output_tokens": made},
                        "cached_tokens": 2,
                    },
                }
            },
        ),
    ]


def error(kind: Kind, status: int, message: str) -> bytes:
    """An error body with the type or status word that the provider uses for that HTTP status."""
    body: Any
    if kind == "openai":
        types = {401: "invalid_request_error", 429: "requests", 500: "server_error"}
        codes = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
        body = {
            "error": {
                "message": message,
                "type": types.get(status, "invalid_request_error"),
                "param": None,
                "code": codes.get(status),
            }
        }
    elif kind == "anthropic":
        types = {
            400: "invalid_request_error",
            401: "authentication_error",
            403: "permission_error",
            404: "not_found_error",
            429: "rate_limit_error",
            500: "api_error",
            529: "overloaded_error",
        }
        body = {
            "type": "error",
            "error": {"type": types.get(status, "api_error"), "message": message},
            "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy",
        }
    elif kind == "google":
        words = {
            400: "INVALID_ARGUMENT",
            401: "UNAUTHENTICATED",
            403: "PERMISSION_DENIED",
            404: "NOT_FOUND",
            429: "RESOURCE_EXHAUSTED",
            500: "INTERNAL",
            503: "UNAVAILABLE",
        }
        body = {
            "error": {"code": status, "message": message, "status": words.get(status, "UNKNOWN")}
        }
    else:
        body = {"id": "ebd93a4d-8f4b-4a5e-a6cd-a4e0b8ac2b8c", "message": message}
    return json.dumps(body).encode()


def _data(content: dict[str, Any], end: bytes = b"\n\n") -> bytes:
    return b"data: " + json.dumps(content).encode() + end


def _event(name: str, content: dict[str, Any]) -> bytes:
    return f"event: {name}\n".encode() + _data({"type": name, **content})
