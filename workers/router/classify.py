"""`model_preference: auto`: which tier of model a prompt deserves.

Two questions, answered by one embedding of the prompt:

1. What kind of request is it? Every example utterance in the catalogue votes for its type with
   weight exp(s / sharpness), s being its cosine similarity to the prompt (a Parzen estimate). The
   votes of a tier's types together are the tier's probability; below `confidence` nothing is known,
   and the default tier is used.
2. How hard is it? Signs of difficulty in the text move the tier by one step.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from config.catalogue import AutoSpec, Tier

Embed = Callable[[list[str]], npt.NDArray[np.float32]]  # rows of length 1, one for each text

TIERS: tuple[Tier, ...] = ("small", "medium", "large")
HEAD_CHARS = 700  # the embedding model reads 256 tokens; the instruction is at an end of the text
TAIL_CHARS = 300
LONG_PROMPT_CHARS = 6_000
HARD_SCORE = 2


@dataclass(frozen=True)
class Decision:
    """What `auto` decided, and why."""

    route: str
    tier: Tier
    request_type: str | None  # the likeliest; None where nothing was embedded
    probability: float  # of that type
    tier_probability: float  # of the likeliest tier
    confident: bool  # False: the default tier was taken
    signs: tuple[str, ...] = ()  # of difficulty, that moved the tier
    nearest_example: str | None = None
    similarity: float = 0.0  # of the nearest example, cosine

    def as_json(self) -> dict[str, Any]:
        """For the command line and for responses."""
        return asdict(self)


class Classifier:
    """Classifies prompts by the catalogue's examples. Thread-safe; embeds the examples once."""

    def __init__(self, spec: AutoSpec, embed: Embed) -> None:
        self._spec = spec
        self._embed = embed
        self._examples = [
            (kind, example) for kind, t in enumerate(spec.types) for example in t.examples
        ]
        self._kinds = np.array([kind for kind, _ in self._examples])
        self._matrix: npt.NDArray[np.float32] | None = None
        self._lock = threading.Lock()
        self._hard = _any_word(spec.hard_words)
        self._easy = _any_word(spec.easy_words)

    def decide(self, prompt: str) -> Decision:
        """The tier and route for a prompt (the last user message)."""
        vector = self._embed([head_and_tail(prompt)])[0]
        similarities = self._rows() @ vector
        nearest = int(similarities.argmax())
        votes = np.exp((similarities - similarities[nearest]) / self._spec.sharpness)
        types = np.bincount(self._kinds, weights=votes) / votes.sum()
        best = int(types.argmax())
        tiers = dict.fromkeys(TIERS, 0.0)
        for kind, probability in zip(self._spec.types, types, strict=True):
            tiers[kind.tier] += float(probability)
        likeliest = max(TIERS, key=lambda tier: tiers[tier])
        confident = tiers[likeliest] >= self._spec.confidence
        tier, signs = self._shift(likeliest if confident else self._spec.default_tier, prompt)
        return Decision(
            route=self._spec.routes[tier],
            tier=tier,
            request_type=self._spec.types[best].name,
            probability=round(float(types[best]), 4),
            tier_probability=round(tiers[likeliest], 4),
            confident=confident,
            signs=signs,
            nearest_example=self._examples[nearest][1],
            similarity=round(float(similarities[nearest]), 4),
        )

    def _rows(self) -> npt.NDArray[np.float32]:
        with self._lock:
            if self._matrix is None:
                self._matrix = self._embed([example for _, example in self._examples])
            return self._matrix

    def _shift(self, tier: Tier, prompt: str) -> tuple[Tier, tuple[str, ...]]:
        signs = [f"says {word!r}" for word in sorted(_found(self._hard, prompt))]
        if len(prompt) > LONG_PROMPT_CHARS:
            signs.append("long prompt")
        if prompt.count("?") >= 3 or len(re.findall(r"(?m)^\s*(\d+[.)]|[-*])\s", prompt)) >= 4:
            signs.append("several tasks")
        easy = [f"says {word!r}" for word in sorted(_found(self._easy, prompt))]
        step = (1 if len(signs) >= HARD_SCORE else 0) - (1 if easy and not signs else 0)
        if step == 0:
            return tier, ()
        moved = TIERS[min(max(TIERS.index(tier) + step, 0), len(TIERS) - 1)]
        return moved, tuple(signs if step > 0 else easy)


def default_decision(spec: AutoSpec) -> Decision:
    """The decision where a prompt cannot be embedded."""
    tier = spec.default_tier
    return Decision(spec.routes[tier], tier, None, 0.0, 0.0, confident=False)


def head_and_tail(text: str) -> str:
    """The ends of a long text: an instruction stands before or after its material."""
    if len(text) <= HEAD_CHARS + TAIL_CHARS:
        return text
    return f"{text[:HEAD_CHARS]}\n{text[-TAIL_CHARS:]}"


def _any_word(words: tuple[str, ...]) -> re.Pattern[str] | None:
    if not words:
        return None
    return re.compile(rf"\b({'|'.join(map(re.escape, words))})\b", re.IGNORECASE)


def _found(pattern: re.Pattern[str] | None, text: str) -> set[str]:
    return {found.lower() for found in pattern.findall(text)} if pattern else set()
