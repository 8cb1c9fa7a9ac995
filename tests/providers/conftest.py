"""A fake provider server, and adapters of all kinds that call it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from config.catalogue import Catalogue, ProviderConfig, load_catalogue
from tasks.inference import GenerationParams, Message
from tests.fakes.provider import FakeProvider
from workers.providers.base import CallLimits, Completion
from workers.providers.provider import HttpProvider
from workers.providers.registry import build_providers

KEY = "sk-very-secret-key-4711"
MODELS = {
    "openai": "gpt-4.1",
    "anthropic": "claude-haiku-5-5",
    "google": "gemini-3.8-flash",
    "cohere": "command-a-03-2025",
    "local": "gemma3-270m.gguf",
}

Ask = Callable[..., Completion]


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return load_catalogue()


@pytest.fixture(scope="session")
def fake_server() -> Iterator[FakeProvider]:
    with FakeProvider() as server:
        yield server


@pytest.fixture
def fake(fake_server: FakeProvider) -> FakeProvider:
    fake_server.reset()
    return fake_server


@pytest.fixture(scope="session")
def adapters(catalogue: Catalogue, fake_server: FakeProvider) -> Iterator[dict[str, HttpProvider]]:
    built = build_providers(
        catalogue, {name: ProviderConfig(KEY, fake_server.url) for name in catalogue.providers}
    )
    yield built
    for provider in built.values():
        provider.close()


@pytest.fixture(params=list(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    """Each provider in turn."""
    return str(request.param)


@pytest.fixture
def ask(adapters: dict[str, HttpProvider], name: str) -> Ask:
    """Call the provider `name`; `seconds` to the deadline, parameters by keyword."""

    def call(
        prompt: str | list[Message] = "one two three",
        *,
        seconds: float = 20,
        first_byte: float = 20,
        on_delta: Callable[[str], None] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        model: str | None = None,
        **params: object,
    ) -> Completion:
        limits = CallLimits(
            time.monotonic() + seconds, first_byte_seconds=first_byte, cancelled=cancelled
        )
        return adapters[name].generate(
            prompt,
            model or MODELS[name],
            params=GenerationParams.model_validate(params),
            limits=limits,
            on_delta=on_delta,
        )

    return call
