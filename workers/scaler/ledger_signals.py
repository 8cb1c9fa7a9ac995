"""The scaler's signals, read from the job ledger."""

from __future__ import annotations

from typing import Any

from tasks.inference import Priority
from tasks.ledger import Ledger
from tasks.presence import present_workers
from workers.scaler.signals import LedgerSignals

_TOTALS = ("started", "late", "busy_ms", "served", "served_tokens")


class LedgerSignalsReader:
    """Reads what the ledger's own scripts count, as they count it."""

    def __init__(self, client: Any, prefix: str) -> None:
        self._redis = client
        self._prefix = prefix
        self._ledger = Ledger(client, prefix)

    def __call__(self, queue: str, now: float) -> LedgerSignals:
        """The signals of the lane `queue`. Raises redis.RedisError."""
        load = self._ledger.loads()[Priority(queue)]
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hmget(self._ledger.key("totals"), [f"{name}:{queue}" for name in _TOTALS])
            pipe.hgetall(self._ledger.key("holding", queue))
            totals, holding = pipe.execute()
        started, late, busy_ms, served, tokens = (int(value or 0) for value in totals)
        running = dict.fromkeys(present_workers(self._redis, self._prefix, queue), 0)
        running.update((worker.decode(), int(jobs)) for worker, jobs in holding.items())
        return LedgerSignals(
            depth=load.ready,
            running=load.running,
            oldest_age=load.oldest_seconds,
            started_total=started,
            late_total=late,
            busy_seconds_total=busy_ms / 1000.0,
            finished_total=served,
            finished_tokens_total=tokens,
            running_by_worker=running,
        )
