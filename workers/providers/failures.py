"""Which error of ours a provider's error answer is.

The status decides, then the error's own type or code, then (for a prompt that is too long and
for a model that does not exist, which several providers tell apart in words only) its message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from workers.providers.errors import (
    AuthenticationFailed,
    BadRequest,
    ContentFiltered,
    ContextTooLong,
    InvalidResponse,
    ModelNotFound,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    RateLimited,
)
from workers.providers.retry_after import retry_after

MAX_MESSAGE_CHARS = 300

_TOO_LONG = re.compile(
    r"context[_ ]length|context window|prompt is too long|too many (input )?tokens|"
    r"maximum (context|number of tokens)|token count .* exceeds|exceeds the maximum number of token"
    r"|too many tokens: ",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model.{0,120}(not (found|exist|supported)|does not exist)", re.IGNORECASE | re.DOTALL
)
_FILTERED = re.compile(
    r"content_filter|content_policy|content management policy|safety", re.IGNORECASE
)
_BAD_KEY = re.compile(r"API_KEY_INVALID|API key not valid|invalid[ _]api[ _]key", re.IGNORECASE)
_NO_CREDIT = re.compile(r"insufficient_quota|credit balance is too low|billing", re.IGNORECASE)


def error_from(
    status: int, headers: Mapping[str, str], body: bytes, api_key: str | None
) -> ProviderError:
    """The error that an HTTP answer with a status other than 2xx stands for.

    The provider's message is kept, shortened, with our key blotted out where it echoes it.
    """
    detail = _parse(body)
    message = f"HTTP {status}"
    if detail.message:
        message += f": {_clean(detail.message, api_key)}"
    error = _kind(status, detail)(message, status=status)
    if isinstance(error, RateLimited | Overloaded):
        error.retry_after = retry_after(headers, detail.details)
    return error


def in_stream_error(content: Any) -> ProviderError:
    """The error that a provider put into a stream, or into a body with status 200."""
    detail = _detail(content)
    text = f"{detail.code} {detail.message}"
    if re.search(
        r"overloaded|unavailable|internal|server_error|api_error|50[0-9]|529", text, re.IGNORECASE
    ):
        kind: type[ProviderError] = Overloaded
    elif re.search(r"rate_limit|RESOURCE_EXHAUSTED|429", text, re.IGNORECASE):
        kind = RateLimited
    elif re.search(r"timeout|DEADLINE_EXCEEDED", text, re.IGNORECASE):
        kind = ProviderTimeout
    else:
        kind = _by_words(text) or Overloaded
    error = kind(f"the provider broke off: {_clean(detail.message, None)}")
    if isinstance(error, RateLimited):
        error.retry_after = retry_after({}, detail.details)
    return error


def _kind(status: int, detail: _Detail) -> type[ProviderError]:
    text = f"{detail.code} {detail.message}"
    if status in (401, 402, 403):
        return AuthenticationFailed
    if status == 404:
        # A wrong path (a base URL without /v1) is like a missing model: others may have it.
        return ModelNotFound
    if status == 429:
        return AuthenticationFailed if _NO_CREDIT.search(detail.code) else RateLimited
    if status in (408, 409, 425) or status >= 500:
        return Overloaded
    if 400 <= status < 500:
        return _by_words(text) or BadRequest
    return InvalidResponse


def _by_words(text: str) -> type[ProviderError] | None:
    if _TOO_LONG.search(text):
        return ContextTooLong
    if _BAD_KEY.search(text) or _NO_CREDIT.search(text):
        return AuthenticationFailed
    if _NO_MODEL.search(text):
        return ModelNotFound
    if _FILTERED.search(text):
        return ContentFiltered
    return None


class _Detail:
    """An error body's message, type and code in one string, and Google's details."""

    def __init__(self, message: str = "", code: str = "", details: Any = None) -> None:
        self.message = message
        self.code = code
        self.details = details


def _parse(body: bytes) -> _Detail:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _Detail()  # an HTML page of a proxy says nothing that a client should see
    if isinstance(content, list) and content:
        content = content[0]  # Google wraps errors of streaming calls into a list
    if isinstance(content, dict) and content.get("error"):
        return _detail(content["error"])
    return _detail(content)


def _detail(content: Any) -> _Detail:
    if isinstance(content, str):
        return _Detail(content)
    if not isinstance(content, dict):
        return _Detail()
    message = content.get("message")
    codes = [content.get(name) for name in ("type", "code", "status")]
    details = content.get("details")
    if isinstance(details, list):
        codes += [d.get("reason") for d in details if isinstance(d, dict)]
    return _Detail(
        message if isinstance(message, str) else "",
        " ".join(str(code) for code in codes if isinstance(code, str | int)),
        details,
    )


def _clean(message: str, api_key: str | None) -> str:
    if api_key:
        message = message.replace(api_key, "[key]")
    message = " ".join(message.split())
    return message if len(message) <= MAX_MESSAGE_CHARS else message[:MAX_MESSAGE_CHARS] + "..."
