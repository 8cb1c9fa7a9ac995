"""The one interface to every provider."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tasks.inference import FinishReason, GenerationParams, Message, Usage


@dataclass(frozen=True)
class CallLimits:
    """What bounds one call."""

    deadline: float  # time.monotonic() by which the whole call must be over
    connect_seconds: float = 3.0
    first_byte_seconds: float = 60.0  # longest silence before and between bytes
    cancelled: Callable[[], bool] = field(default=lambda: False)  # asked between chunks


@dataclass(frozen=True)
class Completion:
    """A complete answer of a provider, in one shape for all of them."""

    text: str
    provider: str
    model: str  # as the provider names the model that answered
    finish_reason: FinishReason
    usage: Usage
    latency: float  # seconds
    first_token_seconds: float | None = None  # streaming only
    cost: float = 0.0  # US dollars


@dataclass(frozen=True)
class ProviderStatus:
    """Whether a provider can be used, and why not."""

    name: str
    configured: bool  # a key (where one is needed) and a base URL are there
    reachable: bool | None  # None: not asked
    detail: str = ""


class Provider(Protocol):
    """One provider. Thread-safe: every thread of a worker shares one instance."""

    name: str

    def generate(
        self,
        prompt: str | Sequence[Message],
        model: str,
        *,
        params: GenerationParams,
        limits: CallLimits,
        on_delta: Callable[[str], None] | None = None,
    ) -> Completion:
        """Answer `prompt`; with `on_delta`, stream and hand each piece of text to it.

        Raises ProviderError, and nothing else, whatever the provider sends.
        An exception raised by `on_delta` passes through unchanged.
        """
        ...

    def get_provider_status(self) -> ProviderStatus:
        """Whether this provider is configured and answers."""
        ...

    def estimate_cost(
        self, prompt: str | Sequence[Message], max_tokens: int, model: str | None = None
    ) -> float:
        """An upper estimate in US dollars of answering `prompt` with `max_tokens` tokens."""
        ...
