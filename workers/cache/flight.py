"""Single flight: identical requests at the same time are one provider call.

<prefix>:flight:<fingerprint>        string: token of the leader, with a lease
<prefix>:landed:<fingerprint>        list of one element once the leader is done, short-lived
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any

import redis

LANDED_SECONDS = 30
_LAND = """
-- KEYS[1] flight  KEYS[2] landed  ARGV[1] token  ARGV[2] seconds that the news stays
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('RPUSH', KEYS[2], '1')
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
"""


@dataclass(frozen=True)
class Flight:
    """The right to make the call for one fingerprint."""

    fingerprint: str
    token: str


class SingleFlight:
    """Who calls the provider for a fingerprint, and who waits."""

    def __init__(self, client: redis.Redis, prefix: str = "cache") -> None:
        self._client, self._prefix = client, prefix
        self._land = client.register_script(_LAND)

    def take_off(self, fingerprint: str, lease: float) -> Flight | None:
        """The flight when nobody else has it, else None: then `wait`. `lease` in seconds.

        When Redis is away everybody flies: two calls are better than none.
        """
        flight = Flight(fingerprint, secrets.token_hex(8))
        try:
            name, milliseconds = self._flight(fingerprint), int(lease * 1000)
            won = self._client.set(name, flight.token, nx=True, px=milliseconds)
        except redis.RedisError:
            return flight
        return flight if won else None

    def land(self, flight: Flight) -> None:
        """The call is over, well or badly: wake who waits. They look into the cache again."""
        keys = [self._flight(flight.fingerprint), self._landed(flight.fingerprint)]
        try:
            self._land(keys=keys, args=[flight.token, LANDED_SECONDS])
        except redis.RedisError:
            return  # the lease ends by itself

    def wait(self, fingerprint: str, seconds: float) -> bool:
        """Wait until the leader lands; False when it did not in time, or its lease ended."""
        deadline = time.monotonic() + seconds
        landed = self._landed(fingerprint)
        while (left := deadline - time.monotonic()) > 0:
            try:
                # Moved onto itself, so that it wakes every waiter.
                pause: Any = min(left, 0.2)  # shorter than any socket timeout; redis-py says int
                moved = self._client.blmove(landed, landed, pause, "LEFT", "RIGHT")
                if moved is not None:
                    return True
                if not self._client.exists(self._flight(fingerprint)):
                    return bool(self._client.exists(landed))
            except redis.RedisError:
                return False
        return False

    def _flight(self, fingerprint: str) -> str:
        return f"{self._prefix}:flight:{fingerprint}"

    def _landed(self, fingerprint: str) -> str:
        return f"{self._prefix}:landed:{fingerprint}"
