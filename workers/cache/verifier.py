"""Whether a stored answer really serves a new prompt: the veto after the cosine.

Two parts that must both agree: numbers, dates and identifiers are equal (`slots.py`), and a small
cross-encoder that reads both prompts says that one answer serves both. It never turns a distant
prompt into a hit, and no cosine is so high that it is not asked. Anything that goes wrong is a
refusal.

The cross-encoder reads a pair once, in an order that does not depend on which of the two was
stored: reading it both ways costs twice the time and was measured to tell no more traps apart.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from tokenizers import Tokenizer

from workers.cache.alignment import TYPES_PER_SEGMENT, alignment_types
from workers.cache.embedding import MODELS, open_session, read_card
from workers.cache.slots import differ, read_slots

logger = logging.getLogger(__name__)
CLS, SEP = 101, 102
MAX_TOKENS_A_SIDE = 254


class TooLong(Exception):
    """The two prompts do not fit into the cross-encoder."""


@dataclass(frozen=True)
class Verdict:
    """What the verifier says of one pair."""

    score: float  # probability that one answer serves both; 0.0 where it was not asked
    veto: str | None = None  # number, date, identifier, low_score, too_long, failed

    @property
    def accepted(self) -> bool:
        """Whether the answer may be served."""
        return self.veto is None


class Verifier(Protocol):
    """Anything that judges a pair. Thread-safe."""

    build: str

    def judge(self, prompt: str, stored: str, bar: float) -> Verdict:
        """Whether the answer to `stored` serves `prompt`, with a score of at least `bar`."""
        ...


class OnnxVerifier:
    """The committed int8 cross-encoder behind the hard facts."""

    def __init__(self, directory: Path = MODELS / "verifier", *, threads: int = 1) -> None:
        card = read_card(directory)
        self.build = f"{card['name']}-{str(card['sha256'])[:12]}"
        self._session = open_session(directory / "model.onnx", threads)
        self._tokenizer = Tokenizer.from_file(str(MODELS / "embedder" / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def judge(self, prompt: str, stored: str, bar: float) -> Verdict:
        """As the protocol says."""
        try:
            veto = differ(read_slots(prompt), read_slots(stored))
            if veto is not None:
                return Verdict(0.0, veto)
            score = self.score(prompt, stored)
        except TooLong:
            return Verdict(0.0, "too_long")
        except Exception as error:  # noqa: BLE001 - whatever fails, the answer is not served
            logger.warning(
                "verifier failed", extra={"action": "verifier_failed", "error": repr(error)}
            )
            return Verdict(0.0, "failed")
        return Verdict(score, None if score >= bar else "low_score")

    def score(self, prompt: str, stored: str) -> float:
        """The cross-encoder alone; the same for either order of the two. Raises TooLong."""
        return self._read(*sorted((self._tokens(prompt), self._tokens(stored))))

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) > MAX_TOKENS_A_SIDE:
            raise TooLong
        return ids

    def _read(self, first: list[int], second: list[int]) -> float:
        types_first, types_second = alignment_types(first, second)
        ids, types = pair_input(first, second, types_first, types_second)
        feed = {
            "ids": np.array([ids], np.int64),
            "types": np.array([types], np.int64),
            "mask": np.ones((1, len(ids)), np.int64),
        }
        return float(self._session.run(None, feed)[0][0])


def pair_input(
    first: list[int], second: list[int], types_first: list[int], types_second: list[int]
) -> tuple[list[int], list[int]]:
    """Token ids and token types of `[CLS] first [SEP] second [SEP]`."""
    shifted = [TYPES_PER_SEGMENT + kind for kind in types_second]
    return (
        [CLS, *first, SEP, *second, SEP],
        [0, *types_first, 0, *shifted, TYPES_PER_SEGMENT],
    )


def load_verifier(*, threads: int = 1) -> Verifier | None:
    """The committed verifier; None, and so no semantic hits, when it cannot be loaded."""
    try:
        return OnnxVerifier(threads=threads)
    except Exception as error:
        logger.exception(
            "verifier not loaded", extra={"action": "verifier_missing", "error": repr(error)}
        )
        return None
