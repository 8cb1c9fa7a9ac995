"""What the end of one call says about the provider that was called."""

from __future__ import annotations

from workers.providers.base import Provider
from workers.providers.errors import (
    AuthenticationFailed,
    Cancelled,
    EmptyAnswer,
    ModelNotFound,
    ProviderError,
    RateLimited,
)
from workers.providers.provider import HttpProvider
from workers.router.targets import Result

DEFAULT_PAUSE_SECONDS = 1.0  # after a 429 that names no time


def result_of(error: ProviderError) -> Result:
    """How a failed call counts against its target's circuit; see record.lua."""
    if isinstance(error, Cancelled):
        return "released"
    if isinstance(error, AuthenticationFailed | ModelNotFound):
        return "fatal"
    if isinstance(error, RateLimited | EmptyAnswer) or not error.retryable:
        return "healthy"
    return "failed"


def pause_seconds(provider: Provider, model: str, error: ProviderError | None) -> float:
    """For how long nobody should call this target, because the provider said so; 0: no pause.

    A failed call's Retry-After, or after an answer the reset of a limit that it used up.
    """
    if error is not None:
        if error.retry_after is not None:
            return error.retry_after
        return DEFAULT_PAUSE_SECONDS if isinstance(error, RateLimited) else 0.0
    room = provider.headroom(model) if isinstance(provider, HttpProvider) else None
    if room is not None and room.exhausted and room.reset_seconds is not None:
        return room.reset_seconds
    return 0.0
