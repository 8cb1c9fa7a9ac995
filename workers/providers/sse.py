"""Server-Sent Events, read from bytes as they arrive.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from workers.providers.errors import InvalidResponse

MAX_LINE_BYTES = 4 * 1024 * 1024


def event_data(chunks: Iterable[bytes]) -> Iterator[str]:
    """The `data` of each event, lines joined by newlines; comments and other fields are dropped.

    An event that the end of the stream cuts short is dropped, as the specification says. Raises
    InvalidResponse for text that is not UTF-8 or a line beyond MAX_LINE_BYTES.
    """
    data: list[str] = []
    for line in _lines(chunks):
        if not line:
            if data:
                yield "\n".join(data)
                data = []
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    buffer = b""
    for chunk in chunks:
        # \r\n is one line end: the \r is dropped with the \n, and a lone \r is another line end.
        buffer += chunk
        if len(buffer) > MAX_LINE_BYTES:
            raise InvalidResponse("a line of the stream is too long")
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            for part in line.removesuffix(b"\r").split(b"\r"):
                yield _text(part)
    if buffer:
        yield _text(buffer)


def _text(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise InvalidResponse("the stream is not UTF-8") from error
