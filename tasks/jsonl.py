"""Reading JSON lines, or the items of a JSON array, from a stream of bytes in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_STRUCTURE = re.compile(rb'["\\\[\]{},]')
_IN_STRING = re.compile(rb'["\\]')
_SPACE = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"


class NotAnArrayError(ValueError):
    """The text is not a JSON array."""


@dataclass(frozen=True)
class Line:
    """One line, or one item of an array."""

    number: int  # the first is 1; blank lines count
    data: bytes | None  # without the line's end; None: longer than allowed


def read_lines(chunks: Iterable[bytes], most: int) -> Iterator[Line]:
    """The lines that are not blank. At most `most` bytes of a line are kept at any time.

    A line ends with LF or CR LF; the last one may end with the text. A byte order mark before
    the first line is passed over.
    """
    number, kept, length = 1, bytearray(), 0

    def line() -> Line | None:
        if length > most:
            return Line(number, None)
        data = bytes(kept).strip(_SPACE)
        if number == 1:
            data = data.removeprefix(_BOM).strip(_SPACE)
        return Line(number, data) if data else None

    for chunk in chunks:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            length += end - start
            if length <= most:
                kept += chunk[start:end]
            found = line()
            if found is not None:
                yield found
            number, length = number + 1, 0
            kept.clear()
            start = end + 1
        length += len(chunk) - start
        if length <= most:
            kept += chunk[start:]
        else:
            kept.clear()
    found = line()
    if found is not None:
        yield found


def read_array(chunks: Iterable[bytes], most: int) -> Iterator[Line]:
    """The items of a JSON array as they stand in the text, on one line each.

    Items are found by brackets and strings alone; whether one is valid JSON is for its reader to
    see. Raises NotAnArrayError for text before or after the array, or when it does not end.
    """
    splitter = _ArraySplitter(most)
    for chunk in chunks:
        yield from splitter.feed(chunk)
    splitter.end()


class _ArraySplitter:
    def __init__(self, most: int) -> None:
        self._most = most
        self._depth = 0  # 0 outside the array, 1 between its items
        self._number = 0
        self._item = bytearray()
        self._length = 0
        self._in_string = False
        self._escaped = False  # the next byte belongs to the backslash before it
        self._over = False
        self._head = bytearray()  # before the array: blank, or a byte order mark

    def feed(self, chunk: bytes) -> Iterator[Line]:
        at = self._start(chunk) if self._depth == 0 and not self._over else 0
        size = len(chunk)
        while at < size:
            if self._over:
                if chunk[at:].strip(_SPACE):
                    raise NotAnArrayError("there is text after the end of the array")
                return
            if self._escaped:
                self._keep(chunk[at : at + 1])
                self._escaped = False
                at += 1
                continue
            token = (_IN_STRING if self._in_string else _STRUCTURE).search(chunk, at)
            end = token.start() if token else size
            self._keep(chunk[at:end])
            if token is None:
                return
            at = end + 1
            yield from self._token(token[0])

    def end(self) -> None:
        if not self._over:
            raise NotAnArrayError(
                "the array does not end" if self._depth else "the text must begin with ["
            )

    def _start(self, chunk: bytes) -> int:
        """Find the bracket that opens the array; where to go on."""
        at = chunk.find(b"[")
        self._head += chunk[: at if at >= 0 else len(chunk)][:64]
        if bytes(self._head).removeprefix(_BOM[: len(self._head)]).strip(_SPACE):
            raise NotAnArrayError("the text must begin with [")
        if at < 0:
            self._head = self._head[:3]
            return len(chunk)
        self._depth = 1
        return at + 1

    def _token(self, token: bytes) -> Iterator[Line]:
        if self._in_string:
            self._keep(token)
            if token == b'"':
                self._in_string = False
            else:
                self._escaped = True
            return
        if token == b"," and self._depth == 1:
            yield self._take()
            return
        if token in b"]}":
            self._depth -= 1
            if self._depth == 0:
                self._over = True
                if self._number or self._length:
                    yield self._take()
                return
        elif token in b"[{":
            self._depth += 1
        elif token == b'"':
            self._in_string = True
        self._keep(token)

    def _keep(self, data: bytes) -> None:
        if not self._length:
            data = data.lstrip(_SPACE)
        self._length += len(data)
        if self._length <= self._most:
            self._item += data
        else:
            self._item.clear()

    def _take(self) -> Line:
        self._number += 1
        whole = self._length <= self._most
        # A line break stands only between tokens: inside a string JSON does not allow it.
        data = bytes(self._item).rstrip(_SPACE).replace(b"\n", b" ").replace(b"\r", b" ")
        self._item.clear()
        self._length = 0
        return Line(self._number, data if whole else None)
