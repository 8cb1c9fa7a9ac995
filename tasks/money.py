"""Money as whole nano-dollars: 1,000,000,000 to the US dollar.

Sums of floats drift, and Redis and both databases add integers exactly. A nano-dollar is the
price of one token at $0.001 per million; the cheapest models cost 20 times that. A 64-bit column
holds $9.2 billion; Lua counts in doubles, which are exact up to $9 million in one counter.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

NANO = 1_000_000_000


def nano(dollars: float | Decimal | str) -> int:
    """US dollars as nano-dollars, rounded to the nearest. Raises ValueError for no number."""
    try:
        exact = Decimal(str(dollars)) * NANO
        return int(exact.to_integral_value(ROUND_HALF_EVEN))
    except ArithmeticError:
        raise ValueError(f"not an amount of money: {dollars!r}") from None


def dollars(amount: int) -> float:
    """Nano-dollars as US dollars, for JSON. Exact to the nano-dollar up to $9 million."""
    return float(Decimal(amount) / NANO)


def dollars_text(amount: int) -> str:
    """Nano-dollars as a decimal number of US dollars with nine places, for CSV."""
    return f"{Decimal(amount) / NANO:.9f}"
