"""The leases of a worker process, renewed together by one thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis

from tasks.jobs import Job
from tasks.ledger import Ledger

logger = logging.getLogger(__name__)


class Lease:
    """The right to end one job. Once lost it stays lost."""

    def __init__(self, job: Job, seconds: float) -> None:
        self.job = job
        self.good_until = time.monotonic() + seconds
        self._lost = threading.Event()
        self.on_renewed: Callable[[], object] | None = None  # also kept alive by this job

    @property
    def lost(self) -> bool:
        """Whether the job was ended or given to another worker, or must be feared to be."""
        return self._lost.is_set() or time.monotonic() > self.good_until

    def lose(self) -> None:
        """Give the right up."""
        self._lost.set()


class LeaseKeeper:
    """Renews the leases that this process holds, all in one call, three times in their length."""

    def __init__(self, ledger: Ledger, seconds: float) -> None:
        self._ledger = ledger
        self._seconds = seconds
        self._held: dict[str, Lease] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def holding(self, job: Job) -> Iterator[Lease]:
        """Keep the lease of a claimed job alive inside the block."""
        lease = Lease(job, self._seconds)
        with self._lock:
            self._held[job.id] = lease
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew, name="leases", daemon=True)
                self._thread.start()
        try:
            yield lease
        finally:
            with self._lock:
                if self._held.get(job.id) is lease:
                    del self._held[job.id]

    def lose(self, job_id: str) -> None:
        """Give up the lease of a job, which was ended elsewhere."""
        with self._lock:
            lease = self._held.get(job_id)
        if lease is not None:
            lease.lose()

    def _renew(self) -> None:
        pause = threading.Event()
        while not pause.wait(self._seconds / 3):
            with self._lock:
                leases = list(self._held.values())
            asked = time.monotonic()
            try:
                held = self._ledger.renew(
                    [(lease.job.id, lease.job.fence) for lease in leases], self._seconds
                )
            except redis.RedisError as error:
                # Tried again before the leases run out; then `lost` tells the holders.
                logger.warning(
                    "leases not renewed",
                    extra={"action": "renew_failed", "error": type(error).__name__},
                )
                continue
            for lease, ok in zip(leases, held, strict=True):
                if ok:
                    lease.good_until = asked + self._seconds
                    if lease.on_renewed is not None:
                        lease.on_renewed()
                else:
                    lease.lose()
                    logger.warning(
                        "lease lost", extra={"action": "lease_lost", "job_id": lease.job.id}
                    )
