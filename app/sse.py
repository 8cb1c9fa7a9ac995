"""Server-Sent Events, as WHATWG's HTML standard has them (section 9.2)."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
from flask import Response, current_app

PING = b": ping\n\n"


def event_block(data: object, *, event: str = "", event_id: str = "") -> bytes:
    """One event; `data` is written as JSON on one line, or as it is where it is bytes."""
    head = f"id: {event_id}\n" if event_id else ""
    if event:
        head += f"event: {event}\n"
    return head.encode() + b"data: " + (data if isinstance(data, bytes) else _json(data)) + b"\n\n"


def event_stream(blocks: Iterator[bytes]) -> Response:
    """An answer of events, which no proxy on the way keeps or collects."""
    response: Response = current_app.response_class(blocks, mimetype="text/event-stream")
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"
    return response


def _json(data: object) -> bytes:
    return orjson.dumps(data)
