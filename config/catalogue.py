"""The model catalogue: which providers, models and routes exist, read from a YAML file.

The file is `config/models.yaml` beside this module, or the user's own. `load_catalogue` either
returns a catalogue whose every reference holds, or raises `CatalogueError` with one clear line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

DEFAULT_PATH = Path(__file__).with_name("models.yaml")
AUTO = "auto"
# libyaml's safe loader is ten times faster than the one in Python.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

ProviderKind = Literal["openai", "anthropic", "google", "cohere", "openai_compatible"]
Tier = Literal["small", "medium", "large"]
Strategy = Literal["cost", "latency", "least_busy", "weighted", "priority"]
Capability = Literal["vision", "json", "json_schema", "stop", "seed", "temperature", "penalties"]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[\w.:/@+-]+$")]


class CatalogueError(ValueError):
    """The model catalogue cannot be used."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class RateLimit(_Strict):
    """What a provider allows a minute; None where it sets no bound."""

    rpm: float | None = Field(default=None, gt=0, description="requests a minute")
    tpm: float | None = Field(default=None, gt=0, description="input and output tokens a minute")


class ProviderSpec(_Strict):
    """Where a provider is reached and which wire format it speaks."""

    kind: ProviderKind
    base_url: str = Field(pattern=r"^https?://[^\s?#]+$")
    base_url_env: str | None = None
    key_env: str | None = Field(default=None, description="None: this provider needs no key")
    pricing: str | None = Field(default=None, description="its id in genai-prices")
    limit: RateLimit = RateLimit()


class Price(_Strict):
    """US dollars per million tokens; overrides genai-prices."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached_input: float | None = Field(default=None, ge=0)


class Offer(_Strict):
    """One provider's name for a model, and what it allows there."""

    provider: str
    model: str = Field(min_length=1)
    weight: float = Field(default=1.0, gt=0, description="share under the `weighted` strategy")
    limit: RateLimit | None = Field(default=None, description="None: the provider's limit, shared")


class CacheSpec(_Strict):
    """How answers to requests that name a model, a route or `auto` are cached.

    What is left out is as the settings have it.
    """

    layers: Literal["all", "exact", "none"] | None = Field(
        default=None, description="exact: no semantic lookup; none: neither read nor stored"
    )
    ttl: int | None = Field(default=None, ge=1, le=31_536_000, description="seconds")
    sliding: bool | None = Field(default=None, description="whether a hit starts the ttl anew")
    threshold: float | None = Field(default=None, ge=0.5, le=1.0, description="least cosine")
    verifier_bar: float | None = Field(default=None, ge=0.0, le=1.0, description="least score")
    max_temperature: float | None = Field(
        default=None, ge=0.0, le=2.0, description="above it nothing is cached"
    )
    volatile: bool | None = Field(
        default=None, description="whether prompts about the time or the person are cached"
    )


class ModelSpec(_Strict):
    """One model, wherever it is offered."""

    id: Name
    offers: Annotated[tuple[Offer, ...], Field(min_length=1)]
    aliases: tuple[Name, ...] = ()
    context_window: int = Field(gt=0, description="tokens, input and output together")
    max_output: int = Field(gt=0, description="tokens")
    capabilities: frozenset[Capability] = frozenset()
    tier: Tier
    retired: date | None = Field(default=None, description="no provider serves it since that day")
    successor: Name | None = None
    fallbacks: tuple[Name, ...] = Field(default=(), description="other models, if all offers fail")
    price: Price | None = None
    cache: CacheSpec = CacheSpec()

    @model_validator(mode="after")
    def _retired_has_successor(self) -> Self:
        if self.retired is not None and self.successor is None:
            raise ValueError(f"model {self.id!r} is retired and names no successor")
        return self


class RouteCandidate(_Strict):
    """A model within a route; without a provider, every offer of it."""

    model: Name
    provider: str | None = None
    weight: float | None = Field(default=None, gt=0)


class RouteSpec(_Strict):
    """A named choice between models."""

    strategy: Strategy = "priority"
    candidates: Annotated[tuple[RouteCandidate, ...], Field(min_length=1)]
    without_keys: tuple[RouteCandidate, ...] = Field(
        default=(), description="used only where none of the candidates has a configured provider"
    )
    cache: CacheSpec = CacheSpec()


class RequestType(_Strict):
    """A kind of request that `auto` recognises by its likeness to examples."""

    name: Name
    tier: Tier
    examples: Annotated[tuple[str, ...], Field(min_length=3)]


class AutoSpec(_Strict):
    """How `auto` chooses: request type and difficulty give a tier, a tier names a route."""

    default_tier: Tier = "medium"
    confidence: float = Field(default=0.5, ge=0, le=1, description="least probability of the tier")
    sharpness: float = Field(
        default=0.05, gt=0, description="similarity by which one example outweighs e others"
    )
    routes: dict[Tier, Name]
    types: Annotated[tuple[RequestType, ...], Field(min_length=2)]
    hard_words: tuple[str, ...] = ()
    easy_words: tuple[str, ...] = ()
    cache: CacheSpec = CacheSpec()


@dataclass(frozen=True)
class ProviderConfig:
    """One provider's credentials. The key is left out of every repr."""

    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = None  # None: the catalogue's


@dataclass(frozen=True)
class Resolved:
    """What a model preference means."""

    model: ModelSpec | None  # exactly one of `model` and `route` is set
    route: RouteSpec | None
    name: str  # the id that answers to the preference
    notice: str | None = None  # for the response, when a retired model was asked for


class Catalogue(_Strict):
    """Every provider, model and route. All references in it are checked."""

    providers: dict[str, ProviderSpec]
    models: tuple[ModelSpec, ...]
    routes: dict[Name, RouteSpec] = {}
    auto: AutoSpec | None = None

    @model_validator(mode="after")
    def _references_hold(self) -> Self:
        seen: set[str] = {AUTO}
        for name in [*self.routes, *self._names()]:
            if name in seen:
                raise ValueError(f"the name {name!r} is used twice")
            seen.add(name)
        ids = {model.id for model in self.models}
        for model in self.models:
            for offer in model.offers:
                if offer.provider not in self.providers:
                    raise ValueError(f"model {model.id!r}: unknown provider {offer.provider!r}")
            for other in [*model.fallbacks, *filter(None, [model.successor])]:
                if other not in ids:
                    raise ValueError(f"model {model.id!r}: unknown model {other!r}")
            self._check_successors(model)
        for name, route in self.routes.items():
            for candidate in [*route.candidates, *route.without_keys]:
                if candidate.model not in ids:
                    raise ValueError(f"route {name!r}: unknown model {candidate.model!r}")
                offered = {offer.provider for offer in self.model(candidate.model).offers}
                if candidate.provider is not None and candidate.provider not in offered:
                    raise ValueError(
                        f"route {name!r}: {candidate.model!r} is not offered by "
                        f"{candidate.provider!r}"
                    )
        if self.auto is not None:
            for tier in ("small", "medium", "large"):
                if self.auto.routes.get(tier) not in self.routes:
                    raise ValueError(f"auto: tier {tier!r} must name an existing route")
        return self

    def _names(self) -> Iterator[str]:
        for model in self.models:
            yield model.id
            yield from model.aliases

    def _check_successors(self, model: ModelSpec) -> None:
        met = {model.id}
        current = model
        while current.retired is not None and current.successor is not None:
            if current.successor in met:
                raise ValueError(f"model {model.id!r}: its successors go round in a circle")
            met.add(current.successor)
            current = self.model(current.successor)

    @cached_property
    def _by_name(self) -> dict[str, ModelSpec]:
        return {name: m for m in self.models for name in (m.id, *m.aliases)}

    def model(self, name: str) -> ModelSpec:
        """The model of that id or alias. Raises KeyError."""
        return self._by_name[name]

    def names(self) -> list[str]:
        """Everything that a request may name: models, aliases, routes, and `auto`."""
        return [*self._names(), *self.routes, AUTO]

    def cache_spec(self, name: str) -> CacheSpec:
        """How answers to requests for `name` are cached. Raises KeyError."""
        if name == AUTO:
            return self.auto.cache if self.auto else CacheSpec()
        if name in self.routes:
            return self.routes[name].cache
        model = self.resolve(name).model
        assert model is not None  # noqa: S101 - what is no route is a model
        return model.cache

    def offers_of(self, name: str) -> list[tuple[str, str]]:
        """Every (provider, its model) that may answer for `name` itself, sorted. Fallbacks, prices
        and strategies are left out. Raises KeyError.
        """
        if name == AUTO:
            chosen = self.auto.routes.values() if self.auto else ()
            routes = [self.routes[route] for route in chosen]
        else:
            found = self.resolve(name)
            if found.model is not None:
                return sorted((offer.provider, offer.model) for offer in found.model.offers)
            routes = [self.routes[found.name]]
        offers: set[tuple[str, str]] = set()
        for candidate in (c for route in routes for c in (*route.candidates, *route.without_keys)):
            offers.update(
                offer
                for offer in self.offers_of(candidate.model)
                if candidate.provider in (None, offer[0])
            )
        return sorted(offers)

    def resolve(self, preference: str) -> Resolved:
        """What `preference` (a model id, alias or route) stands for; a retired model is followed
        to its successor, with a notice. Raises KeyError for an unknown name.
        """
        if preference in self.routes:
            return Resolved(None, self.routes[preference], preference)
        asked = model = self._by_name[preference]
        while model.retired is not None and model.successor is not None:
            model = self._by_name[model.successor]
        notice = None
        if model is not asked:
            notice = f"{asked.id} was retired on {asked.retired}; its successor {model.id} answered"
        return Resolved(model, None, model.id, notice)


def load_catalogue(path: Path | str | None = None) -> Catalogue:
    """Read a catalogue file (the shipped one by default). Raises CatalogueError, in one line."""
    source = Path(path) if path is not None else DEFAULT_PATH
    try:
        data: Any = yaml.load(source.read_text(encoding="utf-8"), Loader=LOADER)  # noqa: S506 # nosec B506
    except OSError as error:
        raise CatalogueError(f"{source}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise CatalogueError(f"{source}: not valid YAML: {reason}") from error
    if not isinstance(data, dict):
        raise CatalogueError(f"{source}: the file must hold a mapping with providers and models")
    try:
        return Catalogue.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise CatalogueError(f"{source}: {f'{where}: ' if where else ''}{reason}{more}") from error
