"""One provider call for identical requests in flight, across workers.

The first asker leads; the others follow and give their thread back. The lead holds a lease: if its
worker dies the lease ends, and the next asker leads in its place with a higher fence. A lead that
comes back late holds an old fence, and neither renews nor releases anything.

Each call is one round trip. Where Redis cannot be reached everybody leads (a doubled provider call
is better than none), and `on_fallback` is told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from redis import Redis, RedisError

logger = logging.getLogger(__name__)

PREFIX = "inferenceflow:flight:"
LANDED_SECONDS = 60  # that an answer which no cache may hold waits for its followers
KEEP_SECONDS = 3_600  # how long a flight's keys outlive its last use; longer than any lease
LUA = Path(__file__).with_name("lua")


@dataclass(frozen=True)
class Lead:
    """Make the call. `fence` grows with each lead of the same flight."""

    key: str
    owner: str
    fence: int
    shared: bool = True  # False: Redis could not be asked, others may lead as well


@dataclass(frozen=True)
class Follow:
    """Another makes the call. Ask again when woken, and at the latest in `retry_seconds`."""

    key: str
    retry_seconds: float  # until the lead's lease ends


@dataclass(frozen=True)
class Landed:
    """Another has made the call since this one was wanted; here is what it gave to `release`."""

    answer: bytes


class SingleFlight:
    """Flights in Redis. Thread-safe."""

    def __init__(
        self,
        client: Redis,
        *,
        prefix: str = PREFIX,
        on_fallback: Callable[[], None] = lambda: None,
    ) -> None:
        self._prefix = prefix
        self._client = client
        self._on_fallback = on_fallback
        self._join, self._renew, self._release = (
            client.register_script((LUA / f"flight_{name}.lua").read_text())
            for name in ("join", "renew", "release")
        )

    def try_lead(
        self, key: str, owner: str, lease_seconds: float, *, since_ms: int = 2**53
    ) -> Lead | Follow | Landed:
        """Lead the flight `key` if nobody does, or if `owner` does already; else follow it.

        An answer left by a release after `since_ms` (by Redis' clock) is handed over at once.

        `owner` is the job's id, as `release` returns it to be woken. An owner that leads already
        gets a new fence, so that of two runs of one job only the newer leads.
        """
        reply = self._run(
            self._join,
            self._keys(key),
            [owner, round(lease_seconds * 1000), KEEP_SECONDS * 1000, since_ms],
        )
        if reply is None:
            return Lead(key, owner, 0, shared=False)
        role, value = cast("tuple[int, Any]", reply)
        if role == 2:
            return Landed(value)
        return Lead(key, owner, value) if role == 1 else Follow(key, value / 1000)

    def renew(self, lead: Lead, lease_seconds: float) -> bool:
        """Prolong the lease; False if another has taken the lead."""
        if not lead.shared:
            return True
        reply = self._run(
            self._renew,
            self._keys(lead.key)[:1],
            [lead.owner, lead.fence, round(lease_seconds * 1000), KEEP_SECONDS * 1000],
        )
        return reply is None or reply == 1

    def release(self, lead: Lead, *, result_ready: bool, answer: bytes = b"") -> list[str]:
        """End the lead and return the followers to wake.

        With `result_ready` that is all of them: they find the result in the cache, or, if no cache
        may hold it, as `answer`. Without, it is the one that followed first: it will lead next, and
        the others go on following. Empty for a lead that was superseded.
        """
        if not lead.shared:
            return []
        reply = self._run(
            self._release,
            self._keys(lead.key),
            [lead.owner, lead.fence, "1" if result_ready else "0", answer, LANDED_SECONDS * 1000],
        )
        woken = cast("list[bytes | str]", reply or [])
        return [job.decode() if isinstance(job, bytes) else job for job in woken]

    def leave(self, key: str, owner: str) -> None:
        """Follow no more: the job was cancelled."""
        try:
            self._client.zrem(self._keys(key)[1], owner)
        except RedisError as error:
            self._note(error)

    def _keys(self, key: str) -> list[str]:
        name = f"{self._prefix}{key}"
        return [name, f"{name}:followers", f"{name}:landed"]

    def _run(self, script: Any, keys: list[str], arguments: list[str | int | bytes]) -> Any:
        try:
            return script(keys=keys, args=arguments)
        except RedisError as error:
            self._note(error)
            return None

    def _note(self, error: RedisError) -> None:
        self._on_fallback()
        logger.warning(
            "single flight without Redis",
            extra={"action": "single_flight_lost", "error": type(error).__name__},
        )
