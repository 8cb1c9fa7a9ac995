from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from workers.cache import verifier as module
from workers.cache.embedding import MODELS, ModelFileDamaged
from workers.cache.verifier import OnnxVerifier, load_verifier

REPEATS = [
    ("How do I reset my password?", "How can I reset my password?"),
    ("Sort a list in Python", "in python, sort a list"),
    ("What is the capital of France?", "What's the capital of France"),
]
TRAPS = [
    ("Cancel my subscription", "Don't cancel my subscription"),
    ("Translate this from French to German", "Translate this from German to French"),
    ("Convert 5 km to miles", "Convert 5 miles to km"),
    ("Sort a list in Python", "Sort a list in Java"),
    ("Is it safe to run before eating?", "Is it safe to run after eating?"),
    ("Return the result as JSON", "Return the result as XML"),
]


@pytest.mark.parametrize(("one", "two"), REPEATS)
def test_a_repeat_is_accepted_both_ways(verifier: OnnxVerifier, one: str, two: str):
    assert verifier.judge(one, two, 0.5).accepted
    assert verifier.judge(two, one, 0.5).accepted


@pytest.mark.parametrize(("one", "two"), TRAPS)
def test_a_trap_is_refused_both_ways(verifier: OnnxVerifier, one: str, two: str):
    assert verifier.judge(one, two, 0.5).veto == "low_score"
    assert verifier.judge(two, one, 0.5).veto == "low_score"


def test_the_order_of_the_two_does_not_matter(verifier: OnnxVerifier):
    one, two = TRAPS[0]
    assert verifier.judge(one, two, 0.0).score == verifier.judge(two, one, 0.0).score


def test_other_numbers_need_no_model(verifier: OnnxVerifier):
    verdict = verifier.judge("Give me 5 names", "Give me 6 names", 0.0)
    assert (verdict.score, verdict.veto) == (0.0, "number")


def test_what_does_not_fit_is_refused(verifier: OnnxVerifier):
    assert verifier.judge("word " * 300, "word " * 300, 0.0).veto == "too_long"


def test_a_model_that_fails_refuses(verifier: OnnxVerifier, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(verifier, "score", fail)
    assert verifier.judge(*REPEATS[0], 0.0).veto == "failed"


def test_a_damaged_artefact_means_no_verifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(MODELS / "verifier", tmp_path / "m")
    with (tmp_path / "m" / "model.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ModelFileDamaged):
        OnnxVerifier(tmp_path / "m")
    monkeypatch.setattr(module, "OnnxVerifier", lambda **_: OnnxVerifier(tmp_path / "m"))
    assert load_verifier() is None


def test_the_committed_artefact_loads():
    found = load_verifier()
    assert found is not None
    assert found.build.startswith("answer-sharing-verifier-int8-")
