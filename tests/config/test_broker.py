"""The broker's transport when Redis goes away under it."""

from __future__ import annotations

import contextlib
import logging
import socket
from pathlib import Path

from kombu import Connection, Consumer, Exchange, Message, Producer, Queue

from config.celery import SYSTEM_QUEUE
from tests.conftest import running_redis


def test_a_connection_lost_with_a_message_in_hand_can_be_closed(tmp_path: Path) -> None:
    """What a Celery worker does when it loses Redis. kombu's own transport raises AttributeError,
    which Celery takes for the end of the worker.
    """
    exchange = Exchange(SYSTEM_QUEUE, type="direct")
    tasks = Queue(SYSTEM_QUEUE, exchange, routing_key=SYSTEM_QUEUE)
    broadcast = Queue("control", Exchange("control", type="fanout"), auto_delete=True)
    taken: list[Message] = []

    def take(_: object, message: Message) -> None:
        taken.append(message)

    with running_redis(tmp_path) as url:
        connection = Connection(url, transport="config.broker:RedisTransport")
        channel = connection.default_channel
        Consumer(channel, [tasks], callbacks=[take], prefetch_count=2).consume()
        Consumer(connection.channel(), [broadcast], callbacks=[take], no_ack=True).consume()
        Producer(connection.channel()).publish("x", exchange=SYSTEM_QUEUE, routing_key=SYSTEM_QUEUE)
        with contextlib.suppress(socket.timeout):
            while True:  # until it has the message and listens for the next
                connection.drain_events(timeout=0.5)
    assert len(taken) == 1
    connection.collect(socket_timeout=1)
    connection.close()
    taken[0].ack_log_error(logging.getLogger(__name__), connection.connection_errors)
    assert not taken[0].acknowledged
