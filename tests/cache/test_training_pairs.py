"""The pairs that the verifier learns from: what is called the same must be the same."""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path

import pytest

from training.grammar_pairs import Grammar, read_frames, read_macros, read_words
from training.pairs import FRAMES, PROMPTS, PairMaker, development_pairs
from training.qualifying import qualify
from training.rephrasing import rephrase, talk_around
from training.utterances import Utterance, UtterancePairs, alike, read_utterances

FILES = (*FRAMES, *PROMPTS, "tails.txt")


def test_every_frame_names_slots_and_macros_that_exist():
    words, macros = read_words(), read_macros()
    for name in FILES:
        for frame in read_frames(name):
            text = " ".join(wording for meaning in frame.meanings for wording in meaning)
            for kind in re.findall(r"\{(?:\w+:)?(\w+)\}", text):
                assert kind in words, (frame.name, kind)
            for macro in re.findall(r"(?<!\w)@(\w+)", text):
                assert macro in macros, (frame.name, macro)


def test_frames_have_different_names():
    names = [frame.name for name in FRAMES + PROMPTS for frame in read_frames(name)]
    assert len(names) == len(set(names))


def test_no_word_stands_for_two_values_of_a_slot():
    for kind, values in read_words().items():
        every = [word for value in values for word in value]
        assert len(every) == len(set(every)), kind


def test_wordings_of_one_prompt_speak_of_the_same_things_and_have_rivals():
    for name in PROMPTS:
        for frame in read_frames(name):
            assert len(frame.meanings) > 1, frame.name
            assert len(frame.meanings[0]) > 2, frame.name
            for meaning in frame.meanings:
                slots = [set(re.findall(r"\{(?:\w+:)?\w+\}", wording)) for wording in meaning]
                assert all(found == slots[0] for found in slots), (frame.name, meaning)


def test_held_back_frames_and_conditions_never_train():
    maker, measuring = PairMaker(1), PairMaker(1, held_back=True)
    training = {frame.name for frame in maker.frames + maker.tails}
    held_back = {frame.name for frame in measuring.frames + measuring.tails}
    assert measuring.frames
    assert measuring.tails
    assert not training & held_back
    sources = {pair.source.split(":")[-1] for pair in development_pairs(40)}
    assert not sources & training


def test_the_same_seed_draws_the_same_pairs():
    assert development_pairs(20, seed=3) == development_pairs(20, seed=3)


def test_a_meaning_has_a_neighbour_that_differs():
    grammar = Grammar(random.Random(1))
    for name in FILES:
        for frame in read_frames(name):
            meaning = grammar.meaning(frame)
            found = grammar.neighbour(meaning)
            assert found is None or found[0] != meaning


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("How do I unlock my account?", "unlock my account"),
        ("What is the capital of France?", "the capital of France"),
        ("Can I eat raw eggs?", "eat raw eggs"),
        ("Why do cats purr?", "cats purr"),
        ("Where can I buy stamps", "buy stamps"),
    ],
)
def test_another_form_of_sentence_keeps_the_content(text: str, content: str):
    rng = random.Random(1)
    for _ in range(30):
        other = rephrase(text, rng)
        assert other is not None
        assert content in other
        assert content in talk_around(other, rng)


def test_what_fits_no_rule_is_left_alone():
    assert rephrase("Paris or Rome?", random.Random(1)) is None


def test_a_paraphrase_gets_the_same_qualifier_in_the_same_relation():
    rng = random.Random(1)
    for _ in range(50):
        one = qualify("What are the best songs?", rng)
        assert one is not None
        other = qualify("Which songs are best?", rng, like=one)
        assert other is not None
        assert one.words in other.text
        if one.noun is not None:
            assert f"{one.words} {one.noun}" in other.text


def test_a_qualifier_without_its_noun_is_not_forced():
    rng = random.Random(1)
    before_noun = next(
        found
        for _ in range(100)
        if (found := qualify("What are the best songs?", rng)) is not None and found.noun
    )
    assert qualify("Which tunes do you like?", rng, like=before_noun) is None


def utterance(text: str, *details: str, intent: str = "balance") -> Utterance:
    return Utterance(text, intent, frozenset(text.split()), frozenset(details))


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        (utterance("what is my balance"), utterance("tell me my balance"), True),
        (utterance("balance at acme", "acme"), utterance("my acme balance", "acme"), True),
        (utterance("balance at acme", "acme"), utterance("balance at zeta", "zeta"), False),
        (utterance("pay 50", "50"), utterance("pay 60", "50"), False),
        (utterance("call me bob"), utterance("don't call me bob"), False),
        (utterance("my balance"), utterance("my balance", intent="bill"), False),
        (utterance("spell it", intent="spelling"), utterance("spell it", intent="spelling"), False),
    ],
)
def test_utterances_are_alike_when_intent_and_details_are(
    one: Utterance, two: Utterance, same: bool
):
    assert alike(one, two) is same


def test_rare_words_of_an_intent_are_its_details(tmp_path: Path):
    balance = [f"what is my balance at bank{number}" for number in range(20)]
    rows = [(text, "balance") for text in balance] + [("play a song", "music")] * 20
    path = tmp_path / "intents.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"train": rows}).encode()))
    found = read_utterances(path)
    assert found[3].details == {"bank3"}
    pairs = UtterancePairs(path, random.Random(1))
    assert all(pairs.same() is None for _ in range(200))
