"""Reading event streams as plain bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import requests


def blocks(body: bytes) -> list[bytes]:
    """The events, without comments and without an event that was cut."""
    return [block for block in body.split(b"\n\n")[:-1] if block and not block.startswith(b":")]


def event_id(block: bytes) -> str:
    return block.split(b"\n")[0].removeprefix(b"id: ").decode()


def kind(block: bytes) -> str:
    (line,) = [line for line in block.split(b"\n") if line.startswith(b"event: ")]
    return line.removeprefix(b"event: ").decode()


def data(block: bytes) -> Any:
    (line,) = [line for line in block.split(b"\n") if line.startswith(b"data: ")]
    return json.loads(line.removeprefix(b"data: "))


def text(events: list[bytes]) -> str:
    """What a client shows: the text since the last restart."""
    shown = ""
    for event in events:
        if kind(event) == "restart":
            shown = ""
        elif kind(event) == "delta":
            shown += data(event)["text"]
    return shown


def chunks(
    session: requests.Session, url: str, *, after: str = "", timeout: float = 60
) -> Iterator[bytes]:
    """The bytes of a stream as they come; ends where the connection ends, however it does."""
    headers = {"Last-Event-ID": after} if after else {}
    try:
        with session.get(url, stream=True, headers=headers, timeout=timeout) as answer:
            assert answer.status_code == 200, answer.text
            yield from answer.iter_content(chunk_size=None)
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
        return


def read(
    session: requests.Session,
    url: str,
    *,
    after: str = "",
    until: Callable[[bytes], bool] = lambda body: False,
) -> bytes:
    """What came until `until` held, or until the end."""
    body = b""
    for chunk in chunks(session, url, after=after):
        body += chunk
        if until(body):
            break
    return body


def has_events(count: int) -> Callable[[bytes], bool]:
    return lambda body: len(blocks(body)) >= count
