"""Builds the providers that are configured."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from config.catalogue import Catalogue, ProviderConfig, ProviderKind, ProviderSpec
from tasks.tracing import NO_TRACING, Tracing
from workers.providers.anthropic import AnthropicDialect
from workers.providers.cohere import CohereDialect
from workers.providers.dialect import Dialect
from workers.providers.google import GoogleDialect
from workers.providers.openai import OpenAIDialect
from workers.providers.provider import HttpProvider
from workers.providers.transport import Transport
from workers.providers.watchdog import Watchdog

DIALECTS: dict[ProviderKind, Callable[[], Dialect]] = {
    "openai": OpenAIDialect,
    "anthropic": AnthropicDialect,
    "google": GoogleDialect,
    "cohere": CohereDialect,
    "openai_compatible": lambda: OpenAIDialect(compatible=True),
}


def build_providers(
    catalogue: Catalogue,
    credentials: Mapping[str, ProviderConfig],
    tracing: Tracing = NO_TRACING,
) -> dict[str, HttpProvider]:
    """Every provider of the catalogue that can be used, by its name.

    One that needs a key and has none in `credentials` is left out. A base URL in `credentials`
    redirects a provider. Raises ValueError, in one line that does not show the value, for a key or
    base URL that cannot be used.
    """
    watchdog = Watchdog()
    providers: dict[str, HttpProvider] = {}
    for name, spec in catalogue.providers.items():
        given = credentials.get(name, ProviderConfig())
        if spec.key_env is not None and not given.api_key:
            continue
        _check(name, spec, given)
        providers[name] = HttpProvider(
            name,
            spec,
            DIALECTS[spec.kind](),
            Transport(watchdog),
            base_url=given.base_url or spec.base_url,
            api_key=given.api_key or None,
            models={
                offer.model: model
                for model in catalogue.models
                for offer in model.offers
                if offer.provider == name
            },
            tracing=tracing,
        )
    return providers


def credentials_from(
    catalogue: Catalogue, environment: Mapping[str, str]
) -> dict[str, ProviderConfig]:
    """Keys and base URLs from the environment variables that the catalogue names."""
    return {
        name: ProviderConfig(
            api_key=environment.get(spec.key_env or "") or None,
            base_url=environment.get(spec.base_url_env or "") or None,
        )
        for name, spec in catalogue.providers.items()
    }


def _check(name: str, spec: ProviderSpec, given: ProviderConfig) -> None:
    key = given.api_key or ""
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError(f"{spec.key_env or name}: not a key: it holds spaces or odd characters")
    if given.base_url is not None and not given.base_url.startswith(("http://", "https://")):
        raise ValueError(f"{spec.base_url_env or name}: must begin with http:// or https://")
