"""From a model preference to the candidates that may answer, before anything is called."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from config.catalogue import (
    AUTO,
    Capability,
    Catalogue,
    ModelSpec,
    Offer,
    RouteCandidate,
    RouteSpec,
    Strategy,
)
from tasks.inference import Attempt, GenerationParams, InferenceSubmission, Message
from workers.providers.base import Provider
from workers.providers.errors import BadRequest, ContextTooLong
from workers.providers.tokens import estimate_tokens
from workers.router.classify import Decision
from workers.router.targets import Order, Target

EXPECTED_OUTPUT_TOKENS = 512  # of a request that sets no max_tokens; for cost and rate limits
MIN_OUTPUT_TOKENS = 16  # room that must be left in the window for an answer


Unfit = Literal["not_suitable", "context_too_long"]


@dataclass(frozen=True)
class Plan:
    """Who may answer a request, in order of preference, and why the others may not."""

    name: str  # the route or model that the preference resolved to
    strategy: Strategy
    order: Order  # what the shared state still sorts by
    targets: tuple[Target, ...]
    messages: Sequence[Message] = field(repr=False)
    params: GenerationParams
    input_tokens: int  # estimated
    output_tokens: int  # expected, or max_tokens
    passed_over: tuple[Attempt, ...] = ()
    notice: str | None = None  # for the response
    decision: Decision | None = None  # of `auto`


@dataclass(frozen=True)
class Needs:
    """What a request demands of a model."""

    capabilities: frozenset[Capability]
    input_tokens: int
    max_tokens: int | None

    def refusal(self, spec: ModelSpec) -> tuple[Unfit, str] | None:
        """Why a model cannot serve the request; None if it can."""
        missing = self.capabilities - spec.capabilities
        if missing:
            return "not_suitable", f"does not support {', '.join(sorted(missing))}"
        if self.max_tokens is not None and self.max_tokens > spec.max_output:
            return (
                "not_suitable",
                f"gives at most {spec.max_output} tokens, max_tokens asks {self.max_tokens}",
            )
        if self.input_tokens + (self.max_tokens or MIN_OUTPUT_TOKENS) > spec.context_window:
            return (
                "context_too_long",
                f"takes {spec.context_window} tokens, prompt and max_tokens need more",
            )
        return None


def needs_of(messages: Sequence[Message], params: GenerationParams) -> Needs:
    """What a conversation and its parameters demand. Sampling parameters demand nothing: a model
    that does not take one answers without it.
    """
    needed: set[Capability] = set()
    if any(message.images for message in messages):
        needed.add("vision")
    if params.stop:
        needed.add("stop")
    if params.response_format is not None and params.response_format.type == "json_object":
        needed.add("json")
    if params.response_format is not None and params.response_format.type == "json_schema":
        needed.add("json_schema")
    return Needs(frozenset(needed), estimate_tokens(messages), params.max_tokens)


def make_plan(
    catalogue: Catalogue,
    providers: Mapping[str, Provider],
    submission: InferenceSubmission,
    *,
    decision: Decision | None = None,
    explore: float = 0.05,
    random_number: Callable[[], float] = random.random,
) -> Plan:
    """The candidates for a submission. With preference `auto`, `decision` names the route.

    `explore` is the share of requests under `latency` that go in random order, so that a provider
    which became faster is found. Raises BadRequest for a name that does not exist or that nothing
    configured can serve, and ContextTooLong for a prompt that no candidate takes; both before any
    call, and saying what to do.
    """
    name = submission.model_preference
    if name == AUTO:
        if decision is None:
            raise BadRequest("the catalogue has no section 'auto'; name a model or a route")
        name = decision.route
    try:
        resolved = catalogue.resolve(name)
    except KeyError:
        raise BadRequest(
            f"there is no model or route {name!r}; GET /v1/models lists them"
        ) from None
    messages, params = submission.conversation(), submission.params()
    needs = needs_of(messages, params)
    route = resolved.route or _route_of(resolved.model)
    targets, passed_over = _targets(catalogue, providers, route, needs)
    if not targets:
        raise _refusal(catalogue, providers, name, needs, passed_over)
    output = params.max_tokens or EXPECTED_OUTPUT_TOKENS
    strategy = route.strategy
    order: Order = "given"
    if strategy == "cost":
        targets.sort(key=lambda t: providers[t.provider].estimate_cost(messages, output, t.model))
    elif strategy == "weighted":
        # Efraimidis and Spirakis: sorting by u^(1/w) draws without replacement by weight.
        targets.sort(key=lambda t: random_number() ** (1 / t.weight), reverse=True)
    elif strategy == "least_busy":
        order = "least_busy"
    elif strategy == "latency":
        if random_number() < explore:
            targets.sort(key=lambda _: random_number())
        else:
            order = "latency"
    return Plan(
        name=resolved.name,
        strategy=strategy,
        order=order,
        targets=tuple(targets),
        messages=messages,
        params=params,
        input_tokens=needs.input_tokens,
        output_tokens=output,
        passed_over=tuple(passed_over),
        notice=resolved.notice,
        decision=decision if submission.model_preference == AUTO else None,
    )


def _route_of(model: ModelSpec | None) -> RouteSpec:
    assert model is not None  # noqa: S101 - Resolved holds one of the two
    names = [model.id, *model.fallbacks]
    return RouteSpec(candidates=tuple(RouteCandidate(model=name) for name in names))


def _targets(
    catalogue: Catalogue, providers: Collection[str], route: RouteSpec, needs: Needs
) -> tuple[list[Target], list[Attempt]]:
    """Those who can serve the request, and the others with the reason."""
    offers = list(_offers(catalogue, route.candidates))
    if not any(offer.provider in providers for _, offer, _ in offers):
        offers += list(_offers(catalogue, route.without_keys))
    targets: list[Target] = []
    passed: list[Attempt] = []
    for spec, offer, weight in offers:
        if offer.provider not in providers:
            key = catalogue.providers[offer.provider].key_env
            passed.append(_passed(offer, "not_configured", f"{key} is not set"))
            continue
        refusal = needs.refusal(spec)
        if refusal is not None:
            status, why = refusal
            passed.append(_passed(offer, status, f"{spec.id} {why}"))
            continue
        shared = offer.limit is None
        targets.append(
            Target(
                offer.provider,
                offer.model,
                spec,
                limit=offer.limit or catalogue.providers[offer.provider].limit,
                bucket=offer.provider if shared else f"{offer.provider}/{offer.model}",
                weight=weight,
            )
        )
    return targets, passed


def _offers(
    catalogue: Catalogue, candidates: Iterable[RouteCandidate]
) -> Iterable[tuple[ModelSpec, Offer, float]]:
    for candidate in candidates:
        spec = catalogue.resolve(candidate.model).model
        for offer in spec.offers if spec is not None else ():
            if candidate.provider in (None, offer.provider):
                yield spec, offer, candidate.weight or offer.weight  # type: ignore[misc]


def _passed(offer: Offer, status: str, why: str) -> Attempt:
    return Attempt(provider=offer.provider, model=offer.model, status=status, error=why)


def _refusal(
    catalogue: Catalogue,
    providers: Collection[str],
    name: str,
    needs: Needs,
    passed: Sequence[Attempt],
) -> BadRequest:
    """Why nothing can serve the request, and what would."""
    whys = "; ".join(sorted({attempt.error or "" for attempt in passed}))
    usable = [
        model
        for model in catalogue.models
        if model.retired is None and any(offer.provider in providers for offer in model.offers)
    ]
    able = [model.id for model in usable if needs.refusal(model) is None]
    advice = f"; use {' or '.join(able[:3])}" if able else ""
    reasons = {attempt.status for attempt in passed}
    if "context_too_long" in reasons and "not_suitable" not in reasons:
        error: BadRequest = ContextTooLong(
            f"the prompt has about {needs.input_tokens} tokens: {whys}" + (advice or "; shorten it")
        )
    elif reasons == {"not_configured"}:
        error = BadRequest(f"no provider of {name!r} is configured: {whys}{advice}")
    else:
        error = BadRequest(f"{name!r} cannot serve this request: {whys}{advice}")
    error.attempts = tuple(passed)
    return error
