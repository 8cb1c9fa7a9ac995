"""The last day in numbers: latencies and counts by minute, in Redis, from all worker processes.

Latencies go into buckets of equal ratio, so that a percentile is at most 2.5 % off, whatever its
size. The threads of a process add in memory; one thread writes what came, once a second.

Keys, each a hash of `{kind}|{bucket}` (latencies) and `{kind}` (counts)::

    {prefix}recent:1m:{minutes since 1970}            kept for 2 hours
    {prefix}recent:10m:{tens of minutes since 1970}   kept for 25 hours
"""

from __future__ import annotations

import atexit
import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import redis

logger = logging.getLogger(__name__)

RATIO = 1.05  # between the limits of a bucket
_SCALE = 1.0 / math.log(RATIO)
FLUSH_SECONDS = 1.0
MOST_NOTED = 200_000  # between two flushes
MOST_UNWRITTEN = 50_000  # fields kept while Redis is away; about 10 MB
RESOLUTIONS = {"1m": (60, 7_200), "10m": (600, 90_000)}  # seconds of a hash, seconds it is kept
WINDOWS = {"5m": (300, "1m"), "1h": (3_600, "1m"), "24h": (86_400, "10m")}
PERCENTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


def bucket_of(seconds: float) -> int:
    """The bucket of a latency; 0 is one millisecond and less."""
    return max(0, math.ceil(math.log(max(seconds, 1e-3) * 1000.0) * _SCALE))


def seconds_of(bucket: int) -> float:
    """The middle (geometric) of a bucket."""
    return 0.001 if bucket == 0 else float(RATIO ** (bucket - 0.5)) / 1000.0


@dataclass(frozen=True)
class Window:
    """What was counted in one window."""

    seconds: int
    counts: Mapping[str, int]
    latencies: Mapping[str, Mapping[int, int]]  # kind -> bucket -> how many

    def percentiles(self, kind: str) -> dict[str, float | int | None]:
        """`count`, and seconds at P50, P95 and P99; None where nothing was counted."""
        buckets = sorted(self.latencies.get(kind, {}).items())
        total = sum(count for _, count in buckets)
        found: dict[str, float | int | None] = {"count": total}
        for name, share in PERCENTILES.items():
            found[name] = None
            rank, passed = math.ceil(share * total), 0
            for bucket, count in buckets:
                passed += count
                if passed >= rank:
                    found[name] = round(seconds_of(bucket), 4)
                    break
        return found

    def kinds(self, start: str) -> list[str]:
        """The names after `start` under which latencies were counted."""
        return sorted(k.removeprefix(start) for k in self.latencies if k.startswith(start))


class Recent:
    """Writes and reads the last day. Thread-safe."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._redis = client
        self._prefix = f"{prefix}recent:"
        self._noted: deque[tuple[float, str, float | None]] = deque(maxlen=MOST_NOTED)
        self._unwritten: Counter[tuple[int, str]] = Counter()  # (minute, field) -> amount
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None

    def latency(self, kind: str, seconds: float) -> None:
        """Count a latency. `kind` must not contain `|`."""
        self._note(kind, seconds)

    def count(self, kind: str) -> None:
        """Count an event."""
        self._note(kind, None)

    def _note(self, kind: str, seconds: float | None) -> None:
        self._noted.append((time.time(), kind, seconds))  # atomic: a job waits for no lock
        if self._thread is None:
            with self._writing:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="recent", daemon=True)
                    self._thread.start()
                    atexit.register(self.flush)

    def flush(self) -> None:
        """Write what was counted. While Redis is away it is kept, up to a bound."""
        with self._writing:
            while self._noted:
                at, kind, seconds = self._noted.popleft()
                field = kind if seconds is None else f"{kind}|{bucket_of(seconds)}"
                self._unwritten[int(at) // 60, field] += 1
            if not self._unwritten:
                return
            try:
                self._write(self._unwritten)
            except redis.RedisError as error:
                logger.warning(
                    "recent numbers not written",
                    extra={"action": "recent_not_written", "error": type(error).__name__},
                )
                if len(self._unwritten) <= MOST_UNWRITTEN:
                    return
            self._unwritten.clear()

    def _write(self, amounts: Mapping[tuple[int, str], int]) -> None:
        keep: dict[str, int] = {}
        with self._redis.pipeline(transaction=True) as pipe:
            for (minute, field), amount in amounts.items():
                for name, (seconds, ttl) in RESOLUTIONS.items():
                    key = f"{self._prefix}{name}:{minute * 60 // seconds}"
                    pipe.hincrby(key, field, amount)
                    keep[key] = ttl
            for key, ttl in keep.items():
                pipe.expire(key, ttl)
            pipe.execute()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(FLUSH_SECONDS):
            self.flush()

    def window(self, name: str) -> Window:
        """The window `5m`, `1h` or `24h`, up to the minute that runs. Raises redis.RedisError."""
        length, resolution = WINDOWS[name]
        step = RESOLUTIONS[resolution][0]
        last = int(time.time()) // step
        with self._redis.pipeline(transaction=False) as pipe:
            for place in range(last - length // step + 1, last + 1):
                pipe.hgetall(f"{self._prefix}{resolution}:{place}")
            hashes = cast("list[dict[bytes, bytes]]", pipe.execute())
        counts: Counter[str] = Counter()
        latencies: dict[str, Counter[int]] = {}
        for found in hashes:
            for field, amount in found.items():
                kind, _, bucket = field.decode().partition("|")
                if bucket:
                    latencies.setdefault(kind, Counter())[int(bucket)] += int(amount)
                else:
                    counts[kind] += int(amount)
        return Window(length, counts, latencies)

    def summary(self) -> dict[str, Any]:
        """The body of `GET /v1/stats`. Raises redis.RedisError."""
        return {"windows": {name: _summary(self.window(name)) for name in WINDOWS}}


def _summary(window: Window) -> dict[str, Any]:
    counts = window.counts
    ended = {
        kind.removeprefix("ended:"): n for kind, n in counts.items() if kind.startswith("ended:")
    }
    hits = counts.get("cache:exact", 0) + counts.get("cache:semantic", 0)
    lookups = hits + counts.get("cache:miss", 0)
    errors: dict[str, dict[str, int]] = {}
    for kind, n in counts.items():
        if kind.startswith("error:"):
            provider, _, error_type = kind.removeprefix("error:").partition(":")
            errors.setdefault(provider, {})[error_type] = n
    return {
        "ended": ended,
        "throughput_per_second": round(sum(ended.values()) / window.seconds, 4),
        "throughput_per_second_by_priority": {
            kind.removeprefix("lane:"): round(n / window.seconds, 4)
            for kind, n in sorted(counts.items())
            if kind.startswith("lane:")
        },
        "latency_seconds": window.percentiles("latency"),
        "latency_seconds_by_provider": {
            name: window.percentiles(f"latency:{name}") for name in window.kinds("latency:")
        },
        "queue_wait_seconds": {
            name: window.percentiles(f"wait:{name}") for name in window.kinds("wait:")
        },
        "cache": {
            "lookups": lookups,
            "exact": counts.get("cache:exact", 0),
            "semantic": counts.get("cache:semantic", 0),
            "hit_rate": round(hits / lookups, 4) if lookups else None,
        },
        "provider_errors": errors,
    }
