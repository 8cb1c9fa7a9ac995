"""`auto`: examples vote, the default is taken in doubt, and signs of difficulty move the tier."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from config.catalogue import AutoSpec, Catalogue, load_catalogue
from tasks.inference import InferenceSubmission
from workers.router import Router
from workers.router.classify import Classifier, head_and_tail
from workers.router.local_state import LocalState

DATA = Path(__file__).parents[2] / "benchmarks" / "data"


def by_words(texts: list[str]) -> npt.NDArray[np.float32]:
    """An embedding by shared words: enough to tell that likes belong together."""
    rows = np.full((len(texts), 384), 1e-6, dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        for word in re.findall(r"\w+", text.lower()):
            row[zlib.crc32(word.encode()) % 384] += 1
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def spec() -> AutoSpec:
    return AutoSpec.model_validate(
        {
            "default_tier": "medium",
            "sharpness": 0.1,
            "routes": {"small": "s", "medium": "m", "large": "l"},
            "hard_words": ["prove", "step by step"],
            "easy_words": ["briefly"],
            "types": [
                {"name": "chat", "tier": "small", "examples": ["hello you", "hi you", "bye you"]},
                {
                    "name": "code",
                    "tier": "large",
                    "examples": ["fix this function", "write a function", "test the function"],
                },
            ],
        }
    )


@pytest.fixture(scope="module")
def classifier(spec: AutoSpec) -> Classifier:
    return Classifier(spec, by_words)


def test_the_nearest_examples_decide(classifier: Classifier) -> None:
    got = classifier.decide("please write a function")
    assert (got.request_type, got.tier, got.route) == ("code", "large", "l")
    assert got.confident
    assert got.nearest_example == "write a function"
    assert got.similarity > 0.8
    assert classifier.decide("hello you there").tier == "small"


def test_in_doubt_the_default_is_taken(spec: AutoSpec) -> None:
    unsure = Classifier(spec.model_copy(update={"confidence": 0.9}), by_words)
    got = unsure.decide("entirely unrelated words")
    assert (got.confident, got.tier) == (False, "medium")
    assert 0.4 < got.tier_probability < 0.7


@pytest.mark.parametrize(
    ("prompt", "tier", "sign"),
    [
        ("hello you, prove it to you step by step", "medium", "says 'prove'"),
        ("hello you, prove it", "small", None),
        ("write a function, briefly", "medium", "says 'briefly'"),
        ("hello you " * 800 + "prove", "medium", "long prompt"),
        ("hello you\n1. hi you\n2. hi you\n3. hi\n4. bye you, prove", "medium", "several tasks"),
        ("hi you? hello you? bye you? prove", "medium", "several tasks"),
        ("write a function, prove it step by step", "large", "says 'prove'"),
        ("hello you, briefly", "small", "says 'briefly'"),
    ],
)
def test_signs_of_difficulty(
    classifier: Classifier, prompt: str, tier: str, sign: str | None
) -> None:
    got = classifier.decide(prompt)
    assert got.tier == tier
    assert (sign in got.signs) if sign else not got.signs


def test_the_decision_is_plain_json(classifier: Classifier) -> None:
    got = json.loads(json.dumps(classifier.decide("hello you").as_json()))
    assert got["request_type"] == "chat"
    assert got["route"] == "s"


def test_both_ends_of_a_long_text_are_read() -> None:
    text = "start " * 1_000 + "end " * 1_000
    assert head_and_tail(text).startswith("start")
    assert head_and_tail(text).endswith("end ")
    assert len(head_and_tail(text)) < 1_100


def test_the_router_explains_and_follows_the_decision() -> None:
    catalogue = load_catalogue()
    router = Router(catalogue, {"local": None}, LocalState(), embed=by_words)  # type: ignore[dict-item]
    explained = router.explain("Translate this sentence into French")
    assert explained is not None
    assert (explained.request_type, explained.tier) == ("translation", "small")
    assert router.calculate_similarity("a b", "a b") == pytest.approx(1)
    assert router.calculate_similarity("a b", "c d") < 0.1


def test_without_an_embedding_the_default_tier_is_taken() -> None:
    router = Router(load_catalogue(), {}, LocalState())
    explained = router.explain("anything")
    assert explained is not None
    assert (explained.tier, explained.confident, explained.request_type) == ("medium", False, None)
    with pytest.raises(ValueError, match="no embedding"):
        router.calculate_similarity("a", "b")


def test_auto_ends_in_a_plan_that_carries_its_decision() -> None:
    from workers.providers.registry import build_providers

    catalogue = load_catalogue()
    router = Router(catalogue, build_providers(catalogue, {}), LocalState(), embed=by_words)
    plan = router.route_request(InferenceSubmission(prompt="Write a SQL query for customers"))
    assert plan.decision is not None
    assert plan.name == plan.decision.route == "large"
    assert [t.model for t in plan.targets] == ["gemma3-270m.gguf"]  # nothing else has a key
    assert {a.status for a in plan.passed_over} == {"not_configured"}
    named = router.route_request(InferenceSubmission(prompt="x", model_preference="gemma3-270m"))
    assert named.decision is None


def test_a_catalogue_without_auto_explains_nothing() -> None:
    catalogue = load_catalogue().model_copy(update={"auto": None})
    assert Router(catalogue, {}, LocalState(), embed=by_words).explain("x") is None


def test_no_prompt_of_the_test_set_is_an_example() -> None:
    catalogue: Catalogue = load_catalogue()
    assert catalogue.auto is not None
    examples = {e.casefold() for t in catalogue.auto.types for e in t.examples}
    for name in ("prompts_dev", "prompts_test"):
        rows = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]
        assert not examples & {row["prompt"].casefold() for row in rows}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_real_embedding_chooses_the_labelled_tier_mostly() -> None:
    from benchmarks.routing import measure, minilm

    rows = [json.loads(line) for line in (DATA / "prompts_test.jsonl").read_text().splitlines()]
    got = measure(load_catalogue(), minilm(), rows, 0)
    assert got["tier_accuracy_percent"] > 78
    assert got["cost_against_always_large_percent"] < 40
