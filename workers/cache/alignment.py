"""Which tokens of two texts correspond: what the verifier is told beside the text itself."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

TYPES_PER_SEGMENT = 3
ALIGNED, MOVED, ABSENT = range(TYPES_PER_SEGMENT)


def alignment_types(first: Sequence[int], second: Sequence[int]) -> tuple[list[int], list[int]]:
    """For each token id: ALIGNED in both texts, MOVED elsewhere in the other one, or ABSENT there.

    A changed word or a swapped pair of names is a few tokens among many that agree, which a small
    cross-encoder overlooks. Named token by token, it cannot.
    """
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    types_first = _unaligned(first, frozenset(second))
    types_second = _unaligned(second, frozenset(first))
    for start_first, start_second, size in matcher.get_matching_blocks():
        types_first[start_first : start_first + size] = [ALIGNED] * size
        types_second[start_second : start_second + size] = [ALIGNED] * size
    return types_first, types_second


def _unaligned(tokens: Sequence[int], other: frozenset[int]) -> list[int]:
    return [MOVED if token in other else ABSENT for token in tokens]
