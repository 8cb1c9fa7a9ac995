"""Writes, removes and bounds the stored answers; reading them is `tasks/exact_cache.py`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from tasks.cache_stats import StoredBytes, read_usage
from tasks.cache_uses import OVERHEAD, worth_per_use
from tasks.exact_cache import Entry, ExactCache, Generations, decode_entry, encode_entry
from workers.cache.embedding import Vectors
from workers.cache.semantic import VECTOR, SemanticIndex

CHUNK = 500


class AnswerStore:
    """The entries, their index documents, and the bound on both."""

    def __init__(self, exact: ExactCache, index: SemanticIndex, *, max_bytes: int) -> None:
        self.exact, self.index, self._max_bytes = exact, index, max_bytes
        self.client = exact.client
        prefix = exact.prefix
        self.worth, self.expiry = f"{prefix}:worth", f"{prefix}:expiry"
        self.sizes, self.totals = f"{prefix}:sizes", f"{prefix}:totals"
        here = Path(__file__).parent
        self._store = self.client.register_script((here / "store.lua").read_text("utf-8"))
        self._remove = self.client.register_script((here / "remove.lua").read_text("utf-8"))

    def generations(self, pool: str) -> Generations:
        """The counters under which an entry of `pool` is stored now."""
        values = cast("list[bytes | None]", self.client.mget(self.exact.generation_keys(pool)))
        return Generations(int(values[0] or 0), int(values[1] or 0))

    def put(
        self,
        entry: Entry,
        partition: str,
        vector: Vectors | None,
        generations: Generations | None = None,
    ) -> int:
        """Store `entry`; without `vector` it is found by exact lookups only.

        One Redis round trip, and one before it to read the counters unless they are given.

        Returns how many other entries were evicted for it, or -1 if it is too large to store.
        Raises redis.RedisError.
        """
        now = generations or self.generations(entry.pool)
        entry = replace(entry, generation=now.everyone, pool_generation=now.pool)
        data = encode_entry(entry)
        document: list[bytes | str] = []
        if vector is not None:
            document = ["partition", partition, VECTOR, vector.tobytes()]
        size = len(data) + OVERHEAD + sum(len(field) for field in document)
        ttl = max(1, int(entry.ttl * 1000))
        evicted = self._store(
            keys=[
                self.exact.entry_key(entry.fingerprint),
                self.index.document_key(entry.fingerprint),
                self.worth,
                self.expiry,
                self.sizes,
                self.totals,
            ],
            args=[
                entry.fingerprint,
                self.exact.entry_key(""),
                self.index.document_prefix,
                data,
                size,
                repr(worth_per_use(entry.answer, size)),
                ttl,
                repr(time.time()),
                self._max_bytes,
                *document,
            ],
        )
        return int(cast("int", evicted))

    def remove(self, fingerprints: Sequence[str]) -> int:
        """Remove entries and all records of them; returns how many there were."""
        removed = 0
        for start in range(0, len(fingerprints), CHUNK):
            found = self._remove(
                keys=[self.worth, self.expiry, self.sizes, self.totals],
                args=[
                    self.exact.entry_key(""),
                    self.index.document_prefix,
                    *fingerprints[start : start + CHUNK],
                ],
            )
            removed += int(cast("int", found))
        return removed

    def every_entry(self) -> Iterator[Entry]:
        """Every stored entry, void ones too, in chunks; never the whole set in memory."""
        names: list[str] = []
        for name, _ in self.client.zscan_iter(self.expiry, count=CHUNK):
            names.append(name.decode())
            if len(names) >= CHUNK:
                yield from self._entries(names)
                names = []
        yield from self._entries(names)

    def _entries(self, names: list[str]) -> Iterator[Entry]:
        if not names:
            return
        values = cast(
            "list[bytes | None]", self.client.mget([self.exact.entry_key(name) for name in names])
        )
        for value in values:
            if value is not None:
                yield decode_entry(value)

    def usage(self) -> StoredBytes:
        """What is stored now."""
        return read_usage(self.client, self.exact.prefix)
