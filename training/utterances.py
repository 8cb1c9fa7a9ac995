"""Pairs from utterances that people wrote for given intents (CLINC150, CC BY 3.0).

Two utterances of one intent ask for the same thing when they also speak of the same things: the
words that are rare in their intent (names, amounts, places, dishes) must be equal. Utterances of
neighbouring intents, or of one intent with other such words, are what must be told apart.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from workers.cache.slots import differ, read_slots

INTENTS = Path("intents") / "clinc150_data_full.json.gz"  # beside the folder of the pairs
_WORD = re.compile(r"[a-z0-9']+")
_RARE = 0.15  # share of an intent's utterances; a rarer word is a detail


def _lists() -> dict[str, frozenset[str]]:
    text = (Path(__file__).parent / "grammar" / "utterances.txt").read_text()
    lines = (line.split(": ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: frozenset(words.split()) for name, words in lines}


_LISTS = _lists()
_DETAILS, _SLOTTED, _MIXED = _LISTS["details"], _LISTS["slotted"], _LISTS["mixed"]
_EMPTY, _FLIPPING = _LISTS["empty"], _LISTS["flipping"]


@dataclass(frozen=True)
class Utterance:
    """One utterance, with the words that carry its details."""

    text: str
    intent: str
    words: frozenset[str]
    details: frozenset[str]


def read_utterances(path: Path) -> list[Utterance]:
    """The intents' training utterances; `path` is the JSON file, gzipped."""
    with gzip.open(path, "rt") as stream:
        rows: list[list[str]] = json.load(stream)["train"]
    counts: dict[str, Counter[str]] = {}
    totals: Counter[str] = Counter()
    for text, intent in rows:
        counts.setdefault(intent, Counter()).update(set(_words(text)))
        totals[intent] += 1
    spread = Counter(word for counter in counts.values() for word in counter)
    found = []
    for text, intent in rows:
        words = frozenset(_words(text))
        details = {
            word
            for word in words - _EMPTY
            # A word that most intents know is a word of the language, not a detail.
            if word in _DETAILS
            or (counts[intent][word] < _RARE * totals[intent] and spread[word] < 40)
        }
        found.append(Utterance(text, intent, words, frozenset(details)))
    return found


def alike(one: Utterance, other: Utterance) -> bool:
    """Whether both ask for the same thing, as far as the labels and the words can tell."""
    return (
        one.intent == other.intent
        and one.intent not in _MIXED
        and one.details == other.details
        and bool(one.words & _FLIPPING) == bool(other.words & _FLIPPING)
        and differ(read_slots(one.text), read_slots(other.text)) is None
    )


class UtterancePairs:
    """Draws pairs of utterances; every draw depends on `rng` alone."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        self.rng = rng
        self.utterances = read_utterances(path)
        self.by_intent: dict[str, list[Utterance]] = {}
        self.by_word: dict[str, list[Utterance]] = {}
        for one in self.utterances:
            self.by_intent.setdefault(one.intent, []).append(one)
            for word in one.words - _EMPTY:
                self.by_word.setdefault(word, []).append(one)

    def same(self) -> tuple[str, str] | None:
        """Two ways to ask for one thing."""
        one = self.rng.choice(self.utterances)
        other = self.rng.choice(self.by_intent[one.intent])
        if one.text == other.text or not alike(one, other):
            return None
        # Without one word of content in common the label alone would have to be believed.
        if not (one.words & other.words) - _EMPTY:
            return None
        return one.text, other.text

    def different(self) -> tuple[str, str] | None:
        """Two utterances that share words and ask for different things."""
        one = self.rng.choice(self.utterances)
        if one.intent in _SLOTTED and one.details and self.rng.random() < 0.5:
            other = self.rng.choice(self.by_intent[one.intent])
            if not other.details or one.details & other.details:
                return None
        else:
            shared = sorted(one.words - _EMPTY)
            if not shared:
                return None
            other = self.rng.choice(self.by_word[self.rng.choice(shared)])
            if other.intent == one.intent:
                return None
        common = len(one.words & other.words) / len(one.words | other.words)
        return (one.text, other.text) if common >= 0.35 else None


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
