"""What a finished job cost, in the small form that the ledger settles and the usage ledger keeps.

The bill travels in the outbox entry itself, so a usage row needs nothing but its entry: a job
record that is deleted soon after its end takes no spend with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import orjson

from tasks.money import nano


@dataclass(frozen=True)
class Bill:
    """What one job used. The short JSON names are what tasks/lua/spend.lua reads."""

    provider: str = ""
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    prompt_cached_tokens: int = 0  # input tokens served from the provider's own cache
    cost_nano: int = 0
    saved_nano: int = 0
    cache_layer: str = ""  # '' when a provider answered

    @property
    def billable_tokens(self) -> int:
        """What counts against a token budget: an answer from the cache costs nothing."""
        return 0 if self.cache_layer else self.input_tokens + self.output_tokens

    @classmethod
    def of(cls, result: bytes) -> Self:
        """The bill of an InferenceResponse as JSON; an empty one for any other JSON."""
        response: Any = orjson.loads(result)
        if not isinstance(response, dict):
            return cls()
        usage = response.get("usage") or {}
        hit = response.get("cache_hit")
        layer = str((response.get("cache") or {}).get("layer") or "cache") if hit else ""
        return cls(
            provider=response.get("provider", ""),
            model=response.get("model", ""),
            input_tokens=usage.get("input_tokens", 0),
            output_tokens=usage.get("output_tokens", 0),
            prompt_cached_tokens=usage.get("cached_tokens", 0),
            cost_nano=nano(response.get("cost", 0.0)),
            saved_nano=nano(response.get("saved", 0.0)),
            cache_layer=layer,
        )

    def dump(self) -> bytes:
        """As the ledger keeps it."""
        return orjson.dumps(
            {
                "p": self.provider,
                "m": self.model,
                "i": self.input_tokens,
                "o": self.output_tokens,
                "c": self.prompt_cached_tokens,
                "n": self.cost_nano,
                "s": self.saved_nano,
                "l": self.cache_layer,
                "k": self.billable_tokens,
            }
        )

    @classmethod
    def load(cls, data: bytes | None) -> Self:
        """Back from `dump`; an empty bill for a job that ended without an answer."""
        if not data:
            return cls()
        short: dict[str, Any] = orjson.loads(data)
        return cls(
            short["p"], short["m"], short["i"], short["o"],
            short["c"], short["n"], short["s"], short["l"],
        )  # fmt: skip
