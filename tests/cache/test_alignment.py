from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.cache.alignment import ABSENT, ALIGNED, MOVED, alignment_types

TOKENS = st.lists(st.integers(0, 5), max_size=12)


def test_a_changed_token_is_absent_and_the_rest_aligned():
    assert alignment_types([1, 2, 3], [1, 4, 3]) == (
        [ALIGNED, ABSENT, ALIGNED],
        [ALIGNED, ABSENT, ALIGNED],
    )


def test_exchanged_tokens_are_moved():
    one, two = alignment_types([7, 1, 8], [8, 1, 7])
    assert MOVED in one
    assert MOVED in two
    assert ABSENT not in one + two


@given(TOKENS)
def test_equal_texts_are_aligned_throughout(tokens: list[int]):
    assert alignment_types(tokens, tokens) == ([ALIGNED] * len(tokens), [ALIGNED] * len(tokens))


@given(TOKENS, TOKENS)
def test_absent_means_absent(one: list[int], two: list[int]):
    types_one, types_two = alignment_types(one, two)
    assert [kind == ABSENT for kind in types_one] == [token not in two for token in one]
    assert types_one.count(ALIGNED) == types_two.count(ALIGNED)
