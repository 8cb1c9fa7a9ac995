"""The readers of JSON lines and arrays, against a plain reading of the whole text."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.jsonl import NotAnArrayError, read_array, read_lines

LARGE = 1_000_000
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from(['"', "\\", "]}", "{["]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def cut(text: bytes, places: list[int]) -> Iterator[bytes]:
    """`text` in pieces; some of them may be empty."""
    ends = sorted(place % (len(text) + 1) for place in places)
    for start, end in zip([0, *ends], [*ends, len(text)], strict=True):
        yield text[start:end]


def plainly(text: bytes) -> list[tuple[int, bytes]]:
    """What `read_lines` should find, read in one go."""
    lines = enumerate(text.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1)
    return [(number, line.strip(b" \t\r")) for number, line in lines if line.strip(b" \t\r")]


@given(
    st.lists(st.binary(max_size=20) | st.sampled_from([b"", b"\r", b"  ", b"{}", b"\xef\xbb"])),
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
    st.lists(st.integers(min_value=0)),
)
def test_lines_do_not_depend_on_how_the_text_is_cut(
    lines: list[bytes], end: bytes, mark: bool, places: list[int]
) -> None:
    text = (b"\xef\xbb\xbf" if mark else b"") + end.join(lines)
    found = [(line.number, line.data) for line in read_lines(cut(text, places), LARGE)]
    assert found == plainly(text)


@given(
    st.lists(st.integers(min_value=1, max_value=60), min_size=1),
    st.integers(min_value=1, max_value=40),
    st.lists(st.integers(min_value=0)),
)
def test_a_long_line_is_named_and_not_kept(
    lengths: list[int], most: int, places: list[int]
) -> None:
    text = b"\n".join(b"x" * length for length in lengths)
    found = list(read_lines(cut(text, places), most))
    assert [line.number for line in found] == list(range(1, len(lengths) + 1))
    assert [line.data for line in found] == [
        b"x" * length if length <= most else None for length in lengths
    ]


def test_blank_lines_count() -> None:
    found = list(read_lines([b"\n\n a \n\r\n", b"\tb"], LARGE))
    assert [(line.number, line.data) for line in found] == [(3, b"a"), (5, b"b")]


@given(
    st.lists(values),
    st.sampled_from([None, 1]),
    st.sampled_from(["", " ", "\r\n", "\ufeff"]),
    st.lists(st.integers(min_value=0)),
)
def test_items_of_an_array(
    items: list[object], indent: int | None, head: str, places: list[int]
) -> None:
    text = (head + json.dumps(items, indent=indent, ensure_ascii=False)).encode(
        errors="surrogatepass"
    )
    found = list(read_array(cut(text, places), LARGE))
    assert [line.number for line in found] == list(range(1, len(items) + 1))
    assert [json.loads(line.data or b"") for line in found] == items
    assert not any(b"\n" in (line.data or b"") for line in found)


@given(st.lists(st.text(max_size=30), min_size=1), st.integers(min_value=2, max_value=40))
def test_a_long_item_is_named_and_not_kept(items: list[str], most: int) -> None:
    dumped = [json.dumps(item).encode() for item in items]
    found = list(read_array([b"[" + b", ".join(dumped) + b"]"], most))
    assert [line.data for line in found] == [one if len(one) <= most else None for one in dumped]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "must begin"),
        (b"   ", "must begin"),
        (b"{}", "must begin"),
        (b"x[1]", "must begin"),
        (b"[1, 2", "does not end"),
        (b'["]', "does not end"),
        (b'["\\', "does not end"),
        (b"[1] x", "after the end"),
        (b"[1][2]", "after the end"),
        (b"[{]}]", "after the end"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 1000])
def test_what_is_no_array(text: bytes, message: str, size: int) -> None:
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    with pytest.raises(NotAnArrayError, match=message):
        list(read_array(chunks, LARGE))


@pytest.mark.parametrize(
    ("text", "items"),
    [
        (b"[]", []),
        (b"[ \n ]", []),
        (b"[1,]", [b"1", b""]),
        (b"[,1]", [b"", b"1"]),
        (b" [1] \n", [b"1"]),
    ],
)
def test_what_an_item_is_worth_is_for_its_reader_to_see(text: bytes, items: list[bytes]) -> None:
    assert [line.data for line in read_array([text], LARGE)] == items
