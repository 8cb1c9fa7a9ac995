"""What uses of the cache change: its counters, and the rank and worth of the entries used.

<prefix>:stats           hash of counters for everybody
<prefix>:stats:<pool>    hash of counters of one pool
<prefix>:hits            zset fingerprint -> hits, the most used entries
<prefix>:worth           zset fingerprint -> worth (see workers/cache/store.lua)
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import redis

from tasks.cache_hit import CacheHit
from tasks.cache_stats import stats_key
from tasks.exact_cache import Answer

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
MOST_RANKED_ENTRIES = 10_000
# Bytes of Redis beside an entry's own: keys, set and index records, the HNSW links.
OVERHEAD = 900
LATENCY_WORTH = 1e-5  # US dollars a second; makes answers of free models comparable


def count(pipeline: Any, prefix: str, pool: str, counters: Mapping[str, float]) -> None:
    """Queue counters, for everybody and for the pool."""
    for key in (stats_key(prefix), stats_key(prefix, pool)):
        for name, amount in counters.items():
            pipeline.hincrbyfloat(key, name, amount)


def rank(pipeline: Any, prefix: str, fingerprint: str, times: int = 1) -> None:
    """Queue hits of an entry."""
    pipeline.zincrby(f"{prefix}:hits", times, fingerprint)
    pipeline.zremrangebyrank(f"{prefix}:hits", 0, -MOST_RANKED_ENTRIES - 1)


def add_worth(pipeline: Any, prefix: str, fingerprint: str, worth: float) -> None:
    """Queue what uses of an entry add to its worth."""
    pipeline.zadd(f"{prefix}:worth", {fingerprint: worth}, incr=True, xx=True)


def worth_per_use(answer: Answer, size: int = OVERHEAD) -> float:
    """US dollars that one more use saves, per byte."""
    return (answer.cost + LATENCY_WORTH * answer.latency + 1e-9) / size


class CacheUses:
    """Sums up uses and writes them once a second, in one round trip. Thread-safe.

    A process that is killed loses up to a second of statistics, and nothing else.
    """

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._redis, self._prefix = client, prefix
        self._lock = threading.Lock()
        self._counters: dict[str, Counter[str]] = defaultdict(Counter)  # by pool
        self._entries: dict[str, tuple[int, float]] = {}  # uses and worth added
        self._thread: threading.Thread | None = None

    def add(self, pool: str, counters: Mapping[str, float], hit: CacheHit | None) -> None:
        """Count a lookup: what it counts beside, and its hit or miss."""
        with self._lock:
            sums: Any = self._counters[pool]  # of floats as well
            sums.update(counters)
            sums["miss" if hit is None else f"hit_{hit.layer}"] += 1
            if hit is not None:
                sums["saved_cost"] += hit.saved_cost
                sums["saved_seconds"] += hit.saved_seconds
                uses, worth = self._entries.get(hit.fingerprint, (0, 0.0))
                self._entries[hit.fingerprint] = uses + 1, worth + worth_per_use(hit.answer)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="cache-uses", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Write what was counted. When Redis is away it is lost, and the log says so."""
        with self._lock:
            counters, self._counters = self._counters, defaultdict(Counter)
            entries, self._entries = self._entries, {}
        if not counters:
            return
        pipeline = self._redis.pipeline(transaction=False)
        for pool, sums in counters.items():
            count(pipeline, self._prefix, pool, sums)
        for name, (uses, worth) in entries.items():
            rank(pipeline, self._prefix, name, uses)
            add_worth(pipeline, self._prefix, name, worth)
        try:
            pipeline.execute()
        except redis.RedisError as error:
            logger.warning(
                "cache statistics lost",
                extra={"action": "cache_uses_lost", "error": type(error).__name__},
            )

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(FLUSH_SECONDS):
            self.flush()
