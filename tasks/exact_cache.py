"""Stored answers: their form in Redis, and the exact lookup that needs nothing but Redis.

The API answers exact repeats itself, so this module knows neither vectors nor models. Workers
write the entries (`workers/cache/store.py`), because writing also bounds memory and keeps the
index. Keys, all under one prefix:

    <prefix>:entry:<fingerprint>   one answer (this module), with a time to live
    <prefix>:generation            raised to forget every answer at once
    <prefix>:generation:<pool>     raised to forget every answer of one pool
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import orjson
import redis

from tasks.fingerprint import digest
from tasks.inference import FinishReason, Usage

logger = logging.getLogger(__name__)
COMPRESS_ABOVE = 512  # bytes
_PLAIN, _ZLIB = b"j", b"z"


@dataclass(frozen=True)
class Answer:
    """A complete answer as a provider gave it."""

    text: str
    provider: str
    model: str
    finish_reason: FinishReason = "stop"
    usage: Usage = field(default_factory=Usage)
    cost: float = 0.0  # US dollars it cost; what every hit saves
    latency: float = 0.0  # seconds it took


@dataclass(frozen=True)
class Entry:
    """A stored answer with what it answers."""

    fingerprint: str
    pool: str
    scope: str  # digest of its scope
    prompt: str  # the last user message that it answers
    answer: Answer
    created: float  # seconds since the epoch
    ttl: float  # seconds that it lives; Redis ends it
    generation: int = 0
    pool_generation: int = 0
    tags: tuple[str, ...] = ()

    def age(self, now: float | None = None) -> float:
        """Seconds since the answer was given."""
        return max(0.0, (time.time() if now is None else now) - self.created)


def encode_entry(entry: Entry, compress_above: int = COMPRESS_ABOVE) -> bytes:
    """One byte that names the form, then JSON, compressed where that pays."""
    record = asdict(entry)
    record["answer"]["usage"] = entry.answer.usage.model_dump()
    data = orjson.dumps(record)
    return _ZLIB + zlib.compress(data, 6) if len(data) > compress_above else _PLAIN + data


def decode_entry(data: bytes) -> Entry:
    """The entry in `data`. Raises ValueError when it is damaged or of another version."""
    try:
        body = zlib.decompress(data[1:]) if data[:1] == _ZLIB else data[1:]
        record: dict[str, Any] = orjson.loads(body)
        answer = record.pop("answer")
        usage = Usage(**answer.pop("usage"))
        record["tags"] = tuple(record["tags"])
        return Entry(answer=Answer(usage=usage, **answer), **record)
    except (zlib.error, KeyError, TypeError, AttributeError) as error:
        raise ValueError("damaged cache entry") from error


@dataclass(frozen=True)
class Generations:
    """Counters that make every older entry void."""

    everyone: int = 0
    pool: int = 0

    def admit(self, entry: Entry) -> bool:
        """Whether `entry` was stored under these very counters."""
        return (entry.generation, entry.pool_generation) == (self.everyone, self.pool)


class ExactCache:
    """Answers by fingerprint. When Redis is away, every lookup is a miss and is counted."""

    def __init__(
        self,
        client: redis.Redis,
        prefix: str = "cache",
        *,
        on_failure: Callable[[str], None] = lambda operation: None,
    ) -> None:
        self.client, self.prefix, self._on_failure = client, prefix, on_failure

    def entry_key(self, fingerprint: str) -> str:
        """Where the answer lies."""
        return f"{self.prefix}:entry:{fingerprint}"

    def generation_keys(self, pool: str) -> list[str]:
        """Where the two counters lie."""
        return [f"{self.prefix}:generation", f"{self.prefix}:generation:{digest(pool)}"]

    def get(self, fingerprint: str, pool: str) -> Entry | None:
        """The answer to exactly this request, in one round trip."""
        return self.get_many([fingerprint], pool)[0]

    def get_many(self, fingerprints: Sequence[str], pool: str) -> list[Entry | None]:
        """The answers to several requests of one pool, in one round trip."""
        keys = self.generation_keys(pool) + [self.entry_key(name) for name in fingerprints]
        try:
            values = cast("list[bytes | None]", self.client.mget(keys))
        except redis.RedisError as error:
            self.failed("exact_get", error)
            return [None] * len(fingerprints)
        generations = Generations(int(values[0] or 0), int(values[1] or 0))
        return [self.read(value, generations) for value in values[2:]]

    def read(self, data: bytes | None, generations: Generations) -> Entry | None:
        """The entry in `data` if it is still valid."""
        if data is None:
            return None
        try:
            entry = decode_entry(data)
        except ValueError as error:
            self.failed("decode", error)
            return None
        return entry if generations.admit(entry) else None

    def failed(self, operation: str, error: Exception) -> None:
        """Count and log a failure that the caller only sees as a miss."""
        logger.warning(
            "cache failed open",
            extra={"action": "cache_failed_open", "operation": operation, "error": repr(error)},
        )
        self._on_failure(operation)
