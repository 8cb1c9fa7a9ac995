"""The outbox of ended jobs: one stream entry for each, written in the step that ends the job.

Each follower (a consumer group) gets every entry at least once, and acknowledges it when what
follows from it is done. What all groups have passed is trimmed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import redis

from tasks.bills import Bill
from tasks.inference import Priority
from tasks.jobs import JobState

USAGE_GROUP = "usage"
WEBHOOK_GROUP = "webhooks"
FOLLOWERS = {USAGE_GROUP, WEBHOOK_GROUP}  # nothing is trimmed before each of them has begun

Entry = tuple[bytes, dict[bytes, bytes]]


@dataclass(frozen=True)
class EndedJob:
    """An entry of the outbox: all that must be known of a job after its record is gone."""

    id: str
    tenant: str
    user: str
    state: JobState
    lane: Priority
    created_at: int  # ms since 1970
    finished_at: int
    queued_ms: int
    cache_ms: int
    provider_ms: int
    total_ms: int
    bill: Bill

    @classmethod
    def from_entry(cls, fields: Mapping[bytes, bytes]) -> Self:
        """Raises KeyError or ValueError for an entry that no version of ours wrote."""
        number = {
            name: int(fields[name.encode()] or 0)
            for name in (
                "created_at", "finished_at", "queued_ms", "cache_ms", "provider_ms", "total_ms",
            )
        }  # fmt: skip
        return cls(
            id=fields[b"job"].decode(),
            tenant=fields[b"tenant"].decode(),
            user=fields[b"user"].decode(),
            state=JobState(fields[b"state"].decode()),
            lane=Priority(fields[b"lane"].decode()),
            bill=Bill.load(fields[b"bill"]),
            **number,
        )


class Outbox:
    """The stream as one follower sees it.

    A follower is one consumer with a name that stays the same: what it had read and not
    acknowledged when it died is simply read again, by whoever follows next.
    """

    def __init__(self, client: redis.Redis, prefix: str, group: str) -> None:
        self._redis = client
        self.name = f"{prefix}ended"
        self._group = group

    def open(self) -> None:
        """Make the group, from the first entry that is still there; fine if it exists."""
        try:
            self._redis.xgroup_create(self.name, self._group, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def unfinished(self, count: int) -> list[Entry]:
        """Entries read before and never acknowledged, the oldest first."""
        return self._read("0", count)

    def new(self, count: int) -> list[Entry]:
        """Entries that this follower has not seen."""
        return self._read(">", count)

    def _read(self, after: str, count: int) -> list[Entry]:
        reply: Any = self._redis.xreadgroup(
            self._group, self._group, {self.name: after}, count=count
        )
        if not reply:
            return []
        streams = reply.items() if isinstance(reply, dict) else reply
        # A trimmed entry that was pending comes without fields.
        return [(id_, fields or {}) for _, entries in streams for id_, fields in _flat(entries)]

    def acknowledge(self, ids: Sequence[bytes]) -> None:
        """Entries that are done with."""
        self._redis.xack(self.name, self._group, *ids)

    def everything(self, *, count: int = 1000) -> list[Entry]:
        """All entries of the stream, read past the groups."""
        found: list[Entry] = []
        start = "-"
        while True:
            page: Any = self._redis.xrange(self.name, start, "+", count=count)
            found += page
            if len(page) < count:
                return found
            start = "(" + page[-1][0].decode()

    def trim(self) -> int:
        """Drop what every group has acknowledged; the number of entries dropped."""
        oldest: list[tuple[int, int]] = []
        groups: Any = self._redis.xinfo_groups(self.name)
        if FOLLOWERS - {group["name"].decode() for group in groups}:
            return 0
        for group in groups:
            pending: Any = self._redis.xpending(self.name, group["name"])
            if pending["pending"]:
                oldest.append(_order(pending["min"]))
            else:
                milliseconds, number = _order(group["last-delivered-id"])
                oldest.append((milliseconds, number + 1))
        if not oldest:
            return 0
        milliseconds, number = min(oldest)
        dropped: int = self._redis.xtrim(
            self.name, minid=f"{milliseconds}-{number}", approximate=False
        )
        return dropped


def _flat(entries: Any) -> list[Entry]:
    """redis-py gives a list of entries, in RESP3 a list of lists of them."""
    if entries and isinstance(entries[0], list):
        return [entry for page in entries for entry in page]
    return list(entries)


def _order(entry_id: bytes | str) -> tuple[int, int]:
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    milliseconds, _, number = text.partition("-")
    return int(milliseconds), int(number)
