"""The catalogue as OpenAI's list of models, with what else a client may want to know."""

from __future__ import annotations

from typing import Any

from config.catalogue import AUTO, Catalogue, ModelSpec, RouteSpec

OURS = "inferenceflow"


def model_list(catalogue: Catalogue) -> dict[str, Any]:
    """Every model and route, and `auto`."""
    data = [_choice(AUTO, None)]
    data += [_choice(name, route) for name, route in catalogue.routes.items()]
    data += [_model(model) for model in catalogue.models]
    return {"object": "list", "data": data}


def model_object(catalogue: Catalogue, name: str) -> dict[str, Any]:
    """One model (by id or alias) or route. Raises KeyError."""
    if name == AUTO:
        return _choice(AUTO, None)
    if name in catalogue.routes:
        return _choice(name, catalogue.routes[name])
    return _model(catalogue.model(name))


def _model(model: ModelSpec) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": 0,  # not known; OpenAI's clients want a number
        "owned_by": model.offers[0].provider,
        "kind": "model",
        "aliases": list(model.aliases),
        "providers": sorted({offer.provider for offer in model.offers}),
        "tier": model.tier,
        "context_window": model.context_window,
        "max_output": model.max_output,
        "capabilities": sorted(model.capabilities),
        "fallbacks": list(model.fallbacks),
        "retired": None if model.retired is None else model.retired.isoformat(),
        "successor": model.successor,
        "price": None if model.price is None else model.price.model_dump(),
    }


def _choice(name: str, route: RouteSpec | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": OURS,
        "kind": "auto" if route is None else "route",
        "strategy": None if route is None else route.strategy,
        "candidates": [] if route is None else [one.model for one in route.candidates],
    }
