"""What calls cost, and how many tokens a prompt has."""

from __future__ import annotations

import logging

import pytest

from config.catalogue import Price, ProviderConfig, load_catalogue
from tasks import cost as cost_module
from tasks.cost import cost
from tasks.inference import Message, Usage
from workers.providers.registry import build_providers, credentials_from
from workers.providers.tokens import IMAGE_TOKENS, estimate_tokens

USAGE = Usage(input_tokens=1_000_000, output_tokens=1_000_000, cached_tokens=400_000)


def test_prices_come_from_genai_prices() -> None:
    # gpt-4.1: $2 input, $0.50 cached input, $8 output a million, published April 2025
    assert cost(USAGE, "gpt-4.1", "openai") == pytest.approx(0.6 * 2 + 0.4 * 0.5 + 8)


def test_the_catalogue_overrides_them() -> None:
    assert cost(USAGE, "gpt-4.1", "openai", Price(input=1, output=3)) == pytest.approx(4)
    own = Price(input=1, output=3, cached_input=0.5)
    assert cost(USAGE, "x", None, own) == pytest.approx(3.8)


@pytest.mark.parametrize(("model", "pricing"), [("no-such-model", "openai"), ("m", None)])
def test_an_unknown_price_is_zero_and_warned_of_once(
    model: str, pricing: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    cost_module._warn_unknown.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert [cost(USAGE, model, pricing) for _ in range(3)] == [0, 0, 0]
    assert [record.message for record in caplog.records] == ["model has no known price"]


def test_a_model_without_a_cached_price_charges_cached_tokens_as_input() -> None:
    without = cost(Usage(input_tokens=1000, output_tokens=0), "command-a-03-2025", "cohere")
    usage = Usage(input_tokens=1000, output_tokens=0, cached_tokens=900)
    assert cost(usage, "command-a-03-2025", "cohere") == pytest.approx(without)


def test_every_model_of_the_catalogue_has_a_price() -> None:
    catalogue = load_catalogue()
    usage = Usage(input_tokens=1_000, output_tokens=1_000)
    for model in catalogue.models:
        for offer in model.offers:
            spec = catalogue.providers[offer.provider]
            paid = cost(usage, offer.model, spec.pricing, model.price)
            assert paid > 0 or model.price is not None, model.id


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [("word " * 100, 100, 160), ("数" * 100, 60, 120), ("", 1, 10), ("привет " * 50, 150, 300)],
)
def test_token_estimates_are_of_the_right_size(text: str, least: int, most: int) -> None:
    assert least <= estimate_tokens(text) <= most
    assert estimate_tokens([Message(role="user", content=text)]) == estimate_tokens(text)


def test_images_count() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
    message = Message.model_validate({"role": "user", "content": [image, image]})
    assert estimate_tokens([message]) >= 2 * IMAGE_TOKENS


def test_credentials_come_from_the_variables_that_the_catalogue_names() -> None:
    got = credentials_from(
        load_catalogue(), {"OPENAI_API_KEY": "k", "LOCAL_BASE_URL": "http://x/v1", "A": "b"}
    )
    assert (got["openai"].api_key, got["openai"].base_url) == ("k", None)
    assert (got["local"].api_key, got["local"].base_url) == (None, "http://x/v1")
    assert got["cohere"].api_key is None
    assert "k" not in repr(got["openai"]).replace("api_key", "")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (ProviderConfig("two words"), "OPENAI_API_KEY"),
        (ProviderConfig("line\n"), "OPENAI_API_KEY"),
        (ProviderConfig("schlüssel"), "OPENAI_API_KEY"),
        (ProviderConfig("key", "api.example.com/v1"), "OPENAI_BASE_URL"),
    ],
)
def test_a_key_or_address_that_cannot_work_stops_the_start(
    given: ProviderConfig, says: str
) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        build_providers(load_catalogue(), {"openai": given})
    assert "schlüssel" not in str(caught.value)
