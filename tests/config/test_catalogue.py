"""The shipped catalogue holds what is promised, and a bad file is refused in one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from config.catalogue import DEFAULT_PATH, CatalogueError, load_catalogue

PROMISED = (
    "gpt-3.5-turbo",
    "gpt-4",
    "claude-3-sonnet",
    "claude-3-haiku",
    "gemini-pro",
    "command-r-plus",
)


def test_promised_models_are_there_and_retired_ones_lead_to_a_living_one() -> None:
    catalogue = load_catalogue()
    for name in PROMISED:
        assert catalogue.model(name).retired is not None
        resolved = catalogue.resolve(name)
        assert resolved.model is not None
        assert resolved.model.retired is None
        assert resolved.notice is not None
        assert name in resolved.notice
        assert resolved.model.id in resolved.notice


def test_an_alias_is_the_model_and_a_route_is_a_route() -> None:
    catalogue = load_catalogue()
    assert catalogue.resolve("claude-sonnet").name == "claude-sonnet-5-5"
    assert catalogue.resolve("claude-sonnet").notice is None
    assert catalogue.resolve("small").route is catalogue.routes["small"]
    with pytest.raises(KeyError):
        catalogue.resolve("gpt-99")


def test_the_local_model_needs_no_key() -> None:
    catalogue = load_catalogue()
    offer = catalogue.model("gemma3-270m").offers[0]
    assert catalogue.providers[offer.provider].key_env is None


def _shipped() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(DEFAULT_PATH.read_text())
    return content


def _first(content: dict[str, Any]) -> dict[str, Any]:
    model: dict[str, Any] = content["models"][0]
    return model


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda c: c.pop("providers"), "providers: Field required"),
        (lambda c: _first(c).update(colour="red"), "models.0.colour: Extra inputs"),
        (lambda c: _first(c).update(tier="huge"), "models.0.tier: Input should be 'small'"),
        (lambda c: _first(c)["offers"][0].update(provider="x"), "unknown provider 'x'"),
        (lambda c: _first(c).update(aliases=["gpt-4"]), "the name 'gpt-4' is used twice"),
        (lambda c: _first(c).update(id="auto"), "the name 'auto' is used twice"),
        (lambda c: _first(c).update(fallbacks=["nope"]), "unknown model 'nope'"),
        (lambda c: _first(c).update(retired="2026-01-01"), "names no successor"),
        (
            lambda c: _first(c).update(retired="2026-01-01", successor="gpt-6-luna"),
            "go round in a circle",
        ),
        (
            lambda c: c["routes"]["small"]["candidates"].append({"model": "nope"}),
            "route 'small': unknown model 'nope'",
        ),
        (
            lambda c: c["routes"]["small"]["candidates"].append(
                {"model": "gpt-4.1", "provider": "cohere"}
            ),
            "not offered by 'cohere'",
        ),
        (lambda c: c["auto"]["routes"].pop("large"), "tier 'large' must name"),
        (
            lambda c: c["providers"]["openai"].update(base_url="ftp://x"),
            "providers.openai.base_url",
        ),
    ],
)
def test_a_bad_catalogue_is_refused_in_one_line(tmp_path: Path, spoil: Any, says: str) -> None:
    content = _shipped()
    spoil(content)
    path = tmp_path / "models.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(path)
    message = str(caught.value)
    assert says in message
    assert "\n" not in message
    assert str(path) in message


@pytest.mark.parametrize(
    ("text", "says"),
    [("a: [", "not valid YAML"), ("- 1", "must hold a mapping"), ("", "must hold a mapping")],
)
def test_a_file_that_is_no_catalogue(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(text)
    with pytest.raises(CatalogueError, match=says) as caught:
        load_catalogue(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="cannot be read"):
        load_catalogue(tmp_path / "none.yaml")
