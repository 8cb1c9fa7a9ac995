"""What a call costs: by the catalogue's own price, or by the genai-prices package (offline)."""

from __future__ import annotations

import logging
from functools import cache

from genai_prices import Usage as PricedUsage
from genai_prices import calc_price

from config.catalogue import Price
from tasks.inference import Usage

logger = logging.getLogger(__name__)

_PER_MILLION = 1e-6


def cost(usage: Usage, model: str, pricing: str | None, price: Price | None = None) -> float:
    """US dollars for `usage` of a provider's `model`.

    `pricing` is the provider's id in genai-prices; `price` overrides it. Cached input tokens are
    part of `usage.input_tokens` and are charged at their own rate. A model of unknown price costs
    0.0, and a warning names it once.
    """
    cached = min(usage.cached_tokens, usage.input_tokens)
    if price is not None:
        cached_rate = price.input if price.cached_input is None else price.cached_input
        return _PER_MILLION * (
            (usage.input_tokens - cached) * price.input
            + cached * cached_rate
            + usage.output_tokens * price.output
        )
    if pricing is None:
        _warn_unknown(model, "")
        return 0.0
    try:
        priced = calc_price(
            PricedUsage(
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cache_read_tokens=cached,
            ),
            model,
            provider_id=pricing,
        )
    except LookupError:
        _warn_unknown(model, pricing)
        return 0.0
    return float(priced.total_price)


@cache
def _warn_unknown(model: str, pricing: str) -> None:
    logger.warning(
        "model has no known price",
        extra={"action": "price_unknown", "model": model, "provider": pricing},
    )
