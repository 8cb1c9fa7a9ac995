"""Waiting for jobs without polling and without a connection each.

Each API process listens on one pub/sub channel of its own. A request that waits registers that
channel with the job (in the same step that reads the job, so nothing falls between) and sleeps on
an event; the ledger's scripts publish to the registered channels when the job moves.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from app.problems import Problem
from tasks.ledger import Ledger, Snapshot

logger = logging.getLogger(__name__)

# Whoever can only fail or have the answer is let go this long after the process was told to end:
# before the server loses its patience (app/server.py).
DRAIN_SECONDS = 25.0
PING_SECONDS = 5.0  # a dead connection is noticed after at most this and the client's timeout


class WaitHub:
    """Wakes the requests of this process that wait for a job."""

    def __init__(self, client: redis.Redis, prefix: str, *, most: int) -> None:
        """`most`: requests of one tenant that are held at once."""
        self._redis = client
        self.channel = f"{prefix}notify:{secrets.token_hex(8)}"
        self._events: dict[str, set[threading.Event]] = defaultdict(set)
        self._held: Counter[str] = Counter()  # by tenant
        self._most = most
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped_at: float | None = None

    def check_room(self, tenant: str) -> None:
        """Raises Problem 429 when so many requests of the tenant are held that others would suffer.

        Asked before anything is accepted. Requests that ask at the same moment may all be let in.
        """
        if self._held[tenant] >= self._most:
            raise Problem(
                429,
                "too-many-held",
                f"{self._most} requests of your tenant wait or stream already. Submit without "
                "waiting and look at the job later, or end some.",
                headers={"Retry-After": "1"},
            )

    @contextmanager
    def watching(self, tenant: str, *topics: str) -> Iterator[threading.Event]:
        """An event that is set whenever a topic moves, or may have moved unseen.

        A topic is a job's id, or `tasks.streams.stream_topic` of it; the tenant is who waits.
        """
        event = threading.Event()
        with self._lock:
            self._held[tenant] += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name="wait-hub", daemon=True)
                self._thread.start()
            for topic in topics:
                self._events[topic].add(event)
        try:
            yield event
        finally:
            with self._lock:
                self._held[tenant] -= 1
                if not self._held[tenant]:
                    del self._held[tenant]
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
        patient: bool = False,
    ) -> Snapshot:
        """The job when it has ended, or as it stands after `seconds` or when the process ends.

        `registered`: the job was submitted with our channel, so there is no need to look first.
        `patient`: the client cannot ask again for the job, so it waits on while the process drains.
        Raises UnknownJobError and redis.RedisError as Ledger.read does.
        """
        end = time.monotonic() + seconds
        if registered:
            event.wait(seconds)
        while True:
            event.clear()
            snapshot = ledger.read(job_id, tenant, channel=self.channel)
            left = min(end - time.monotonic(), self.drains(patient=patient))
            if snapshot.job.state.terminal or left <= 0:
                return snapshot
            event.wait(left)

    def drains(self, *, patient: bool) -> float:
        """Seconds that a request may still wait: without end unless the process is going away."""
        if self._stopped_at is None:
            return math.inf
        return self._stopped_at + DRAIN_SECONDS - time.monotonic() if patient else 0.0

    def stop(self) -> None:
        """Let waiting requests answer now, or soon: the process is going away."""
        self._stopped_at = time.monotonic()
        self._wake_all()

    def _listening(self) -> bool:
        return self._stopped_at is None or bool(self._events)

    def _wake_all(self) -> None:
        with self._lock:
            events = [event for group in self._events.values() for event in group]
        for event in events:
            event.set()

    def _listen(self) -> None:
        pause = 0.1
        while self._listening():
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
        while self._listening():
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
