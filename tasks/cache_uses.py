"""What uses of the cache change: its counters, and the rank and worth of the entries used.

<prefix>:stats           hash of counters for everybody
<prefix>:stats:<pool>    hash of counters of one pool
<prefix>:hits            zset fingerprint -> hits, the most used entries of everybody
<prefix>:hits:<pool>     zset of the same for one pool, for a month after its last hit
<prefix>:worth           zset fingerprint -> worth (see workers/cache/store.lua)
<prefix>:documents       set of what comes before the fingerprint in the names of index documents,
                         one for each index
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, cast

import redis

from tasks.cache_hit import CacheHit
from tasks.cache_stats import hits_key, stats_key
from tasks.exact_cache import Answer

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
MOST_RANKED_ENTRIES = 10_000
MONTH = 30 * 86_400
# Bytes of Redis beside an entry's own: keys, set and index records, the HNSW links.
OVERHEAD = 900
LATENCY_WORTH = 1e-5  # US dollars a second; makes answers of free models comparable


def count(pipeline: Any, prefix: str, pool: str, counters: Mapping[str, float]) -> None:
    """Queue counters, for everybody and for the pool."""
    for key in (stats_key(prefix), stats_key(prefix, pool)):
        for name, amount in counters.items():
            pipeline.hincrbyfloat(key, name, amount)


def rank(pipeline: Any, prefix: str, pool: str, fingerprint: str, times: int = 1) -> None:
    """Queue hits of an entry, for everybody and for the pool."""
    for key in (hits_key(prefix), hits_key(prefix, pool)):
        pipeline.zincrby(key, times, fingerprint)
        pipeline.zremrangebyrank(key, 0, -MOST_RANKED_ENTRIES - 1)
    pipeline.expire(hits_key(prefix, pool), MONTH)


def add_worth(pipeline: Any, prefix: str, fingerprint: str, worth: float) -> None:
    """Queue what uses of an entry add to its worth."""
    pipeline.zadd(f"{prefix}:worth", {fingerprint: worth}, incr=True, xx=True)


def documents_key(prefix: str) -> str:
    """Where the names of index documents begin is written down."""
    return f"{prefix}:documents"


def slide(
    pipeline: Any, prefix: str, documents: Iterable[str], fingerprint: str, seconds: float
) -> None:
    """Queue that an entry and its index documents live `seconds` from now, never shorter."""
    milliseconds = int(seconds * 1000)
    for key in (f"{prefix}:entry:", *documents):
        pipeline.pexpire(key + fingerprint, milliseconds, gt=True)
    pipeline.zadd(f"{prefix}:expiry", {fingerprint: time.time() + seconds}, xx=True, gt=True)


def worth_per_use(answer: Answer, size: int = OVERHEAD) -> float:
    """US dollars that one more use saves, per byte."""
    return (answer.cost + LATENCY_WORTH * answer.latency + 1e-9) / size


class CacheUses:
    """Sums up uses and writes them once a second, in one round trip. Thread-safe.

    A process that is killed loses up to a second of them: of statistics, and of times that start
    anew.
    """

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._redis, self._prefix = client, prefix
        self._lock = threading.Lock()
        self._counters: dict[str, Counter[str]] = defaultdict(Counter)  # by pool
        # Uses and worth added, by pool and fingerprint.
        self._entries: dict[tuple[str, str], tuple[int, float]] = {}
        self._sliding: dict[str, float] = {}  # whose time starts anew, and its seconds
        self._thread: threading.Thread | None = None

    def add(
        self,
        pool: str,
        counters: Mapping[str, float],
        hit: CacheHit | None,
        *,
        slides: bool = False,
    ) -> None:
        """Count a lookup: what it counts beside, and its hit or miss.

        `slides`: the entry that was hit lives its full time from now.
        """
        with self._lock:
            sums: Any = self._counters[pool]  # of floats as well
            sums.update(counters)
            sums["miss" if hit is None else f"hit_{hit.layer}"] += 1
            if hit is not None:
                sums["saved_cost"] += hit.saved_cost
                sums["saved_seconds"] += hit.saved_seconds
                uses, worth = self._entries.get((pool, hit.fingerprint), (0, 0.0))
                self._entries[pool, hit.fingerprint] = uses + 1, worth + worth_per_use(hit.answer)
                if slides:
                    self._sliding[hit.fingerprint] = hit.ttl
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="cache-uses", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Write what was counted. When Redis is away it is lost, and the log says so."""
        with self._lock:
            counters, self._counters = self._counters, defaultdict(Counter)
            entries, self._entries = self._entries, {}
            sliding, self._sliding = self._sliding, {}
        if not counters:
            return
        pipeline = self._redis.pipeline(transaction=False)
        for pool, sums in counters.items():
            count(pipeline, self._prefix, pool, sums)
        for (pool, name), (uses, worth) in entries.items():
            rank(pipeline, self._prefix, pool, name, uses)
            add_worth(pipeline, self._prefix, name, worth)
        try:
            if sliding:
                names = cast("set[bytes]", self._redis.smembers(documents_key(self._prefix)))
                documents = [name.decode() for name in names]
                for name, seconds in sliding.items():
                    slide(pipeline, self._prefix, documents, name, seconds)
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
