"""What a request costs at most, before it is known who answers it.

The price data (genai-prices) takes 30 MB when loaded, too much for an API process. So the rates
of the catalogue are worked out in a short-lived process of their own, once:

    python -m tasks.prices [MODELS_FILE]

prints them as JSON.
"""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import orjson

from config.catalogue import AUTO, Catalogue, ModelSpec, load_catalogue
from tasks.inference import InferenceSubmission
from tasks.ledger import Reserve
from tasks.money import nano

SECONDS = 30.0
# Input tokens are over-estimated on purpose: English has about 4 characters to a token, digits
# and base64 about 2. A reservation that is too high is let go again; one too low would overspend.
CHARS_PER_TOKEN = 2.0
TOKENS_PER_WIDE_CHAR = 1.5
MESSAGE_TOKENS = 8
IMAGE_TOKENS = 2_000
# Of an answer whose length the request does not bound; more than nearly all answers have.
UNBOUNDED_OUTPUT_TOKENS = 4_096


@dataclass(frozen=True)
class Rate:
    """The most that tokens cost, in nano-dollars per million."""

    input: int
    output: int
    max_output: int  # tokens


_working_out = threading.Lock()


class Prices:
    """Upper rates by model preference."""

    def __init__(self, rates: Mapping[str, Rate]) -> None:
        self._rates = rates

    def reserve(self, submission: InferenceSubmission) -> Reserve:
        """An upper estimate of what the submission uses, whoever of its candidates answers.

        With `max_tokens` the bound is hard; without, an answer longer than
        UNBOUNDED_OUTPUT_TOKENS costs more than was reserved.
        """
        rate = self._rates.get(submission.model_preference) or self._rates[AUTO]
        given = input_tokens(submission)
        made = submission.max_tokens or min(UNBOUNDED_OUTPUT_TOKENS, rate.max_output)
        price = math.ceil((given * rate.input + made * rate.output) / 1_000_000)
        return Reserve(nano=price, tokens=given + made)


def input_tokens(submission: InferenceSubmission) -> int:
    """At most so many tokens go to the provider."""
    texts = [submission.system or "", submission.prompt or ""]
    images = 0
    for message in submission.messages or ():
        texts.append(message.text)
        images += len(message.images)
    plain = wide = 0
    for text in texts:
        if text.isascii():
            plain += len(text)
        else:
            narrow = len(text.encode("ascii", "ignore"))
            plain += narrow
            wide += len(text) - narrow
    return (
        math.ceil(plain / CHARS_PER_TOKEN + wide * TOKENS_PER_WIDE_CHAR)
        + MESSAGE_TOKENS * len(texts)
        + IMAGE_TOKENS * images
    )


def load_prices(models_file: Path | None) -> Prices:
    """The rates of a catalogue. Takes about a second, once for each process and file.

    Raises RuntimeError when they cannot be worked out.
    """
    with _working_out:  # one process at a time, however many requests come first
        return _load(models_file)


@cache
def _load(models_file: Path | None) -> Prices:
    command = [sys.executable, "-m", "tasks.prices", *([str(models_file)] if models_file else [])]
    done = subprocess.run(  # noqa: S603 - our own module
        command, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"prices of the catalogue: {done.stderr.strip().splitlines()[-1:]}")
    return Prices({name: Rate(*values) for name, values in orjson.loads(done.stdout).items()})


def upper_rates(catalogue: Catalogue) -> dict[str, Rate]:
    """By everything that a client may ask for: the dearest that it can lead to."""
    of_model = {model.id: _rate(catalogue, model) for model in catalogue.models}

    def reach(model: ModelSpec) -> Iterator[Rate]:
        yield of_model[model.id]
        for other in model.fallbacks:
            yield of_model[other]

    rates: dict[str, Rate] = {}
    for model in catalogue.models:
        resolved = catalogue.resolve(model.id).model or model
        for name in (model.id, *model.aliases):
            rates[name] = _most(list(reach(resolved)))
    for name, route in catalogue.routes.items():
        candidates = [
            catalogue.resolve(candidate.model).model or catalogue.model(candidate.model)
            for candidate in (*route.candidates, *route.without_keys)
        ]
        rates[name] = _most([rate for model in candidates for rate in reach(model)])
    auto = catalogue.auto.routes.values() if catalogue.auto else list(rates)
    rates[AUTO] = _most([rates[name] for name in auto])
    return rates


def _rate(catalogue: Catalogue, model: ModelSpec) -> Rate:
    """The dearest offer of one model."""
    from tasks.cost import cost  # loads the price data
    from tasks.inference import Usage

    def price(offer_model: str, pricing: str | None, usage: Usage) -> int:
        return nano(cost(usage, offer_model, pricing, model.price))

    # Long prompts have rates of their own, which are dearer: ask with the longest.
    given = Usage(input_tokens=model.context_window)
    both = Usage(input_tokens=model.context_window, output_tokens=1_000_000)
    return _most(
        [
            Rate(
                math.ceil(price(offer.model, pricing, given) * 1_000_000 / model.context_window),
                price(offer.model, pricing, both) - price(offer.model, pricing, given),
                model.max_output,
            )
            for offer in model.offers
            for pricing in [catalogue.providers[offer.provider].pricing]
        ]
    )


def _most(rates: list[Rate]) -> Rate:
    return Rate(
        max(rate.input for rate in rates),
        max(rate.output for rate in rates),
        max(rate.max_output for rate in rates),
    )


def main() -> None:
    """Print the upper rates as JSON."""
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    rates = upper_rates(load_catalogue(given))
    listed = {name: [rate.input, rate.output, rate.max_output] for name, rate in rates.items()}
    sys.stdout.write(orjson.dumps(listed).decode())


if __name__ == "__main__":
    main()
