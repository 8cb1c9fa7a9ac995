"""Waiting for jobs without polling and without a connection each.

Each API process listens on one pub/sub channel of its own. A request that waits registers that
channel with the job (in the same step that reads the job, so nothing falls between) and sleeps on
an event; the ledger's scripts publish to the registered channels when the job moves.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from tasks.ledger import Ledger, Snapshot

logger = logging.getLogger(__name__)

PING_SECONDS = 5.0  # a dead connection is noticed after at most this and the client's timeout


class WaitHub:
    """Wakes the requests of this process that wait for a job."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._redis = client
        self.channel = f"{prefix}notify:{secrets.token_hex(8)}"
        self._events: dict[str, set[threading.Event]] = defaultdict(set)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = False

    @contextmanager
    def watching(self, *topics: str) -> Iterator[threading.Event]:
        """An event that is set whenever a topic moves, or may have moved unseen.

        A topic is a job's id, or `tasks.streams.stream_topic` of it.
        """
        event = threading.Event()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name="wait-hub", daemon=True)
                self._thread.start()
            for topic in topics:
                self._events[topic].add(event)
        try:
            yield event
        finally:
            with self._lock:
                for topic in topics:
                    self._events[topic].discard(event)
                    if not self._events[topic]:
                        del self._events[topic]

    def wait(
        self,
        ledger: Ledger,
        job_id: str,
        tenant: str,
        seconds: float,
        event: threading.Event,
        *,
        registered: bool = False,
    ) -> Snapshot:
        """The job when it has ended, or as it stands after `seconds`.

        `registered`: the job was submitted with our channel, so there is no need to look first.
        Raises UnknownJobError and redis.RedisError as Ledger.read does.
        """
        end = time.monotonic() + seconds
        if registered:
            event.wait(seconds)
        while True:
            event.clear()
            snapshot = ledger.read(job_id, tenant, channel=self.channel)
            left = end - time.monotonic()
            if snapshot.job.state.terminal or left <= 0 or self._stopping:
                return snapshot
            event.wait(left)

    @property
    def stopping(self) -> bool:
        """Whether the process is going away."""
        return self._stopping

    def stop(self) -> None:
        """Let every waiting request answer now: the process is going away."""
        self._stopping = True
        self._wake_all()

    def _wake_all(self) -> None:
        with self._lock:
            events = [event for group in self._events.values() for event in group]
        for event in events:
            event.set()

    def _listen(self) -> None:
        pause = 0.1
        while not self._stopping:
            pubsub = self._redis.pubsub()  # type: ignore[no-untyped-call]
            try:
                pubsub.subscribe(self.channel)
                self._read(pubsub)
                pause = 0.1
            except redis.RedisError as error:
                # Waiting requests look for themselves now, and say so if Redis is gone.
                self._wake_all()
                logger.warning(
                    "wait channel lost",
                    extra={"action": "wait_channel_lost", "error": type(error).__name__},
                )
                threading.Event().wait(pause)
                pause = min(pause * 2, 2.0)
            finally:
                pubsub.close()

    def _read(self, pubsub: redis.client.PubSub) -> None:
        while not self._stopping:
            message = pubsub.get_message(timeout=PING_SECONDS)
            if message is None:
                pubsub.ping()
            elif message["type"] == "subscribe":
                self._wake_all()  # what moved before the subscription was not heard
            elif message["type"] == "message":
                with self._lock:
                    events = list(self._events.get(message["data"].decode(), ()))
                for event in events:
                    event.set()
