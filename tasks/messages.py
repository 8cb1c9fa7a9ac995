"""The Celery messages that ledger scripts send: "a job of this lane is ready", "a batch is done".

The ledger's scripts push it onto the broker's list themselves, so that a job and its message are
written in one step. It is made by Celery and kombu's own code, so any Celery worker reads it.
"""

from __future__ import annotations

import orjson
from kombu.serialization import dumps as serialize
from kombu.transport.virtual.base import Base64
from kombu.utils.json import dumps

from config.celery import SYSTEM_QUEUE, WEBHOOK_QUEUE
from tasks.celery_app import celery_app

RUN_TASK = "inference.run"
CLOSE_BATCH_TASK = "batch.close"
DELIVER_TASK = "webhooks.deliver"
SCALER_TASK = "scaler.tick"


def run_message() -> bytes:
    """The hint that a job is ready, with @ID@ and @LANE@ left to fill in."""
    return _message(RUN_TASK, "inference.@LANE@")


def close_batch_message() -> bytes:
    """The completion callback of a batch, with its id, which is the task's, left to fill in."""
    return _message(CLOSE_BATCH_TASK, SYSTEM_QUEUE)


def deliver_message() -> bytes:
    """The hint that a webhook is to be delivered, with @ID@ left to fill in."""
    return _message(DELIVER_TASK, WEBHOOK_QUEUE)


def _message(task: str, queue: str) -> bytes:
    """A message without arguments, as the Redis transport stores it."""
    headers, properties, body, _ = celery_app.amqp.as_task_v2(
        "@ID@", task, args=(), kwargs={}, origin="ledger"
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
