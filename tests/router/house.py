"""Three fake providers behind a router, for the tests of plans and calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from config.catalogue import Catalogue
from tasks.inference import Attempt, InferenceSubmission
from tests.fakes.provider import FakeProvider
from workers.providers.base import CallLimits, Completion
from workers.router import Plan, Router

NAMES = ("one", "two", "three")


def catalogue(urls: dict[str, str]) -> Catalogue:
    models: list[dict[str, Any]] = [
        {
            "id": f"m-{name}",
            "offers": [{"provider": name, "model": f"{name}-model"}],
            "context_window": 1_000 * (index + 1),
            "max_output": 100,
            "capabilities": ["stop"] if name == "two" else [],
            "tier": "small",
            "price": {"input": 3 - index, "output": 3 - index},
        }
        for index, name in enumerate(NAMES)
    ]
    models += [
        {
            **models[0],
            "id": "both",
            "aliases": ["everywhere"],
            "offers": [
                {"provider": "one", "model": "both-at-one"},
                {"provider": "two", "model": "both-at-two", "limit": {"rpm": 1}},
            ],
        },
        {**models[0], "id": "old", "retired": "2026-01-01", "successor": "both", "offers": [
            {"provider": "one", "model": "old-model"}]},
        {**models[0], "id": "careful", "fallbacks": ["m-two"], "offers": [
            {"provider": "one", "model": "careful-model"}]},
        {**models[0], "id": "seeing", "capabilities": ["vision"], "offers": [
            {"provider": "keyed", "model": "v"}]},
        {**models[0], "id": "kept", "offers": [{"provider": "keyed", "model": "k"}]},
    ]  # fmt: skip
    candidates = [{"model": f"m-{name}"} for name in NAMES]
    return Catalogue.model_validate(
        {
            "providers": {
                **{n: {"kind": "openai_compatible", "base_url": u} for n, u in urls.items()},
                "keyed": {"kind": "openai", "base_url": "http://x", "key_env": "KEYED_API_KEY"},
            },
            "models": models,
            "routes": {
                **{
                    strategy: {"strategy": strategy, "candidates": candidates}
                    for strategy in ("priority", "cost", "latency", "least_busy")
                },
                "weighted": {
                    "strategy": "weighted",
                    "candidates": [
                        {**c, "weight": w} for c, w in zip(candidates, (1, 3, 6), strict=True)
                    ],
                },
                "keyless": {
                    "candidates": [{"model": "kept"}],
                    "without_keys": [{"model": "m-three"}],
                },
            },
        }
    )


@dataclass
class House:
    """Three providers and a router over them."""

    fakes: dict[str, FakeProvider]
    router: Router
    noted: list[Attempt] = field(default_factory=list)

    def plan(self, preference: str = "priority", **fields: Any) -> Plan:
        fields.setdefault("prompt", "hello you")
        return self.router.route_request(InferenceSubmission(model_preference=preference, **fields))

    def call(
        self,
        preference: str = "priority",
        *,
        seconds: float = 20,
        first_byte: float = 20,
        cancelled: Callable[[], bool] = lambda: False,
        on_delta: Callable[[str], None] | None = None,
        on_restart: Callable[[], None] | None = None,
        **fields: Any,
    ) -> tuple[Completion, list[Attempt]]:
        return self.router.call(
            self.plan(preference, **fields),
            limits=CallLimits(
                time.monotonic() + seconds, first_byte_seconds=first_byte, cancelled=cancelled
            ),
            on_delta=on_delta,
            on_restart=on_restart,
        )

    def counts(self) -> list[int]:
        return [fake.count for fake in self.fakes.values()]


def outline(attempts: list[Attempt] | Any) -> list[tuple[str, str]]:
    return [(attempt.provider, attempt.status) for attempt in attempts]
