"""Qualifiers put into any question: whom, where, when or which kind it is about.

"best songs" and "best sad songs" have different answers however alike they look.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

_ADJECTIVES = (
    "cheap", "expensive", "free", "used", "new", "old", "small", "large", "electric", "manual",
    "automatic", "online", "offline", "local", "foreign", "indoor", "outdoor", "professional",
    "portable", "modern", "classic", "organic", "popular", "underrated", "short", "long", "quiet",
    "funny", "scary", "sad", "weird", "open source", "paid", "legal", "illegal", "healthy",
    "female",
    "male", "young", "elderly", "Indian", "American", "Chinese", "European", "Japanese", "Korean",
    "part-time", "remote", "temporary", "permanent", "public", "private", "personal", "military",
    "medieval", "digital", "natural", "artificial", "technical", "medical", "political", "trippy",
    "high-end", "entry-level", "virtual", "reusable", "broken", "joint", "second", "main", "spare",
)  # fmt: skip
_ENDINGS = (
    "for kids", "for beginners", "for seniors", "for women", "for men", "for students", "at night",
    "in winter", "in summer", "in India", "in Canada", "in the US", "in Germany", "in Texas",
    "in New York", "in London", "in Hindi", "from home", "from abroad", "without a degree",
    "without money", "without experience", "without a car", "without surgery", "on a budget",
    "for free", "during pregnancy", "with a newborn", "as a student", "as a freelancer", "at work",
    "at school", "after 40", "before 18", "under 16", "over 65", "with diabetes", "with asthma",
    "on an iPad", "on Android", "on Windows", "on Linux", "in Excel", "in Java", "in a small flat",
    "on weekends", "in one day", "in the evening", "on an empty stomach", "while driving",
    "after a divorce", "for the first time", "for a second time", "in the 1980s", "in 2012",
    "since 2020", "by myself", "with a friend", "by phone", "by email", "by train",
    "using only my phone",
    "if I am retired", "if I live abroad", "if it rains", "when I'm tired", "for a small business",
    "for a large company", "in the public sector", "with children", "for someone else",
    "for my dog",
)  # fmt: skip
# A word after one of these is nearly always a noun, or begins with an adjective already.
_BEFORE_NOUN = re.compile(
    r"\b(?:best|top|good|great|a|an|my|your|some|any|most popular|other)\s(?=[A-Za-z]{3})"
)
_NOT_NOUNS = re.compile(r"(?:way|ways|lot|few|little|thing|things|idea|reason|person|difference)\b")


@dataclass(frozen=True)
class Qualified:
    """A text with a qualifier in it."""

    text: str
    words: str  # the qualifier
    noun: str | None  # what it was put before; None at the end of the text


def qualify(text: str, rng: random.Random, like: Qualified | None = None) -> Qualified | None:
    """`text` with one qualifier; that of `like`, in the same relation, if given. None: no place."""
    stripped = text.rstrip("?.! ")
    end = text[len(stripped) :].strip()
    if like is not None and like.noun is None:
        return Qualified(f"{stripped} {like.words}{end}", like.words, None)
    if like is not None:
        found = re.search(rf"\b{re.escape(str(like.noun))}\b", text)
        if found is None:
            return None
        return Qualified(
            f"{text[: found.start()]}{like.words} {text[found.start() :]}", like.words, like.noun
        )
    places = [m for m in _BEFORE_NOUN.finditer(text) if not _NOT_NOUNS.match(text, m.end())]
    if places and rng.random() < 0.6:
        place, words = rng.choice(places).end(), rng.choice(_ADJECTIVES)
        noun = re.match(r"[\w'-]+", text[place:])
        if noun is not None:
            return Qualified(f"{text[:place]}{words} {text[place:]}", words, noun[0])
    if len(stripped.split()) > 25:
        return None
    words = rng.choice(_ENDINGS)
    return Qualified(f"{stripped} {words}{end}", words, None)
