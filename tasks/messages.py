"""The Celery message that says "a job of this lane is ready", built once per process.

The ledger's scripts push it onto the broker's list themselves, so that a job and its message are
written in one step. It is made by Celery and kombu's own code, so any Celery worker reads it.
"""

from __future__ import annotations

import orjson
from kombu.serialization import dumps as serialize
from kombu.transport.virtual.base import Base64
from kombu.utils.json import dumps

from tasks.celery_app import celery_app

RUN_TASK = "inference.run"


def run_message() -> bytes:
    """The message as the Redis transport stores it, with @ID@ and @LANE@ left to fill in."""
    queue = "inference.@LANE@"
    headers, properties, body, _ = celery_app.amqp.as_task_v2(
        "@ID@", RUN_TASK, args=(), kwargs={}, origin="ledger"
    )
    content_type, content_encoding, payload = serialize(body, serializer="json")
    message = {
        "body": Base64().encode(payload),
        "content-encoding": content_encoding,
        "content-type": content_type,
        "headers": headers,
        "properties": {
            **properties,
            "delivery_mode": 2,
            "delivery_info": {"exchange": queue, "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "@ID@",
        },
    }
    text: str = dumps(message)
    assert orjson.loads(text)["headers"]["id"] == "@ID@"  # noqa: S101 - a change in Celery
    return text.encode()
