"""Hearing at once that a running job was cancelled.

A lease tells as much, but only when it is renewed next; until then the provider call would go on
and cost money. `cancel.lua` publishes to the channel of the worker that runs the job.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import redis

logger = logging.getLogger(__name__)

PING_SECONDS = 5.0  # a dead connection is noticed after at most this and the client's timeout
PAUSE_SECONDS = 1.0  # after Redis did not answer


class CancelListener:
    """Calls `lose` with the id of each job of this worker that is cancelled.

    It also keeps the channels of `presence` open. Nothing is sent there: that they are subscribed
    to says that the worker lives (see `tasks/presence.py`).
    """

    def __init__(
        self,
        client: redis.Redis,
        channel: str,
        lose: Callable[[str], None],
        presence: Sequence[str] = (),
    ) -> None:
        self._redis = client
        self._channel = channel
        self._lose = lose
        self._presence = presence

    def start(self) -> None:
        """Listen from now on, in a thread."""
        threading.Thread(target=self._listen, name="cancellations", daemon=True).start()

    def _listen(self) -> None:
        pause = threading.Event()
        while True:
            pubsub = self._redis.pubsub()  # type: ignore[no-untyped-call]
            try:
                pubsub.subscribe(self._channel, *self._presence)
                self._read(pubsub)
            except redis.RedisError as error:
                logger.warning(
                    "cancellations not heard",
                    extra={"action": "cancel_channel_lost", "error": type(error).__name__},
                )
                pause.wait(PAUSE_SECONDS)
            finally:
                pubsub.close()

    def _read(self, pubsub: redis.client.PubSub) -> None:
        while True:
            message = pubsub.get_message(timeout=PING_SECONDS)
            if message is None:
                pubsub.ping()
            elif message["type"] == "message":
                self._lose(message["data"].decode())
