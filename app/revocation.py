"""Revoked tokens, known to every API process within about a second.

SQL is the truth; Redis holds a copy, `revoked` (hash: subject -> issued_until in ms), with
`revoked:version`. Each API process keeps the copy in memory and looks at the version once in a
second, in whichever request comes first: all others ask nobody.

Whoever publishes takes a number from Redis before it reads SQL, and only a higher number than the
last one is written (a fencing token): an older reading cannot overwrite a newer one, and nobody
waits for a process whose database is slow.

Subjects: `token:{jti}`, `family:{id}` (all tokens refreshed from one login), `client:{id}`,
`user:{tenant}/{user}`, `tenant:{tenant}`. A token is refused if it was issued at or before
`issued_until` of any of its subjects.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import redis
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from tasks.accounts import now_ms
from tasks.database import Database
from tasks.models import Revocation

LOOK_SECONDS = 1.0
USED = "used:"  # before the id of a refresh token that was used: of interest to SQL alone
FOREVER_MS = 253_402_300_799_000  # the year 9999: for what stays disabled until it is allowed again

# The number of a reading: the time in ns, so that numbers go on rising after a flush, and beyond
# whatever was written. Lua's numbers are exact to 256 here, hence steps of 1000.
_BEGIN = """#!lua flags=allow-oom
local time = redis.call('TIME')
local now = (time[1] * 1000000 + time[2]) * 1000
local last = math.max(tonumber(redis.call('GET', KEYS[1]) or 0),
  tonumber(redis.call('GET', KEYS[2]) or 0))
local number = string.format('%.0f', math.max(now, last + 1000))
redis.call('SET', KEYS[1], number)
return number
"""
# 0: Redis was flushed since the reading began, and may have lost what a newer one had written.
_WRITE = """#!lua flags=allow-oom
local number = tonumber(ARGV[1])
if number > tonumber(redis.call('GET', KEYS[1]) or 0) then return 0 end
if number > tonumber(redis.call('GET', KEYS[2]) or 0) then
  redis.call('SET', KEYS[2], ARGV[1])
  redis.call('DEL', KEYS[3])
  for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1]) end
end
return 1
"""


def token_subjects(claims: Mapping[str, Any]) -> Iterable[str]:
    """Everything by which a token may have been revoked."""
    yield f"token:{claims['jti']}"
    if family := claims.get("family"):
        yield f"family:{family}"
    if client := claims.get("client"):
        yield f"client:{client}"
    yield f"user:{claims.get('tenant')}/{claims.get('sub')}"
    yield f"tenant:{claims.get('tenant')}"


def revoke(session: Session, subject: str, *, issued_until: int, expires_at: int) -> None:
    """Note a revocation; the later one of two holds. `publish` must follow the commit."""
    session.execute(delete(Revocation).where(Revocation.expires_at < now_ms()))
    found = session.get(Revocation, subject)
    if found is None:
        session.add(Revocation(subject=subject, issued_until=issued_until, expires_at=expires_at))
    else:
        found.issued_until = max(found.issued_until, issued_until)
        found.expires_at = max(found.expires_at, expires_at)


def allow_again(session: Session, subject: str, *, issued_until: int, expires_at: int) -> None:
    """End a disablement: tokens issued from now on are good, older ones stay refused."""
    found = session.get(Revocation, subject)
    if found is not None:
        found.issued_until, found.expires_at = issued_until, expires_at


class Revocations:
    """The revocations as this process knows them."""

    def __init__(self, client: redis.Redis, prefix: str, database: Database) -> None:
        self._redis = client
        self._database = database
        self._hash = f"{prefix}revoked"
        self._version_key = f"{prefix}revoked:version"
        self._known: dict[str, int] = {}
        self._version: bytes | None = None
        self._looked = -math.inf
        self._lock = threading.Lock()
        self._reading_key = f"{prefix}revoked:reading"
        self._begin = client.register_script(_BEGIN)
        self._write = client.register_script(_WRITE)

    def refused(self, claims: Mapping[str, Any]) -> bool:
        """Whether a verified token was revoked.

        Raises redis.RedisError, and DatabaseDownError after a flush: what cannot be asked about
        is not let in.
        """
        if time.monotonic() - self._looked > LOOK_SECONDS:
            with self._lock:
                if time.monotonic() - self._looked > LOOK_SECONDS:
                    self._look()
        issued = float(claims.get("iat", 0)) * 1000
        known = self._known
        return any(issued <= known.get(subject, -1) for subject in token_subjects(claims))

    def publish(self) -> None:
        """Give all processes what SQL says now. Raises redis.RedisError, DatabaseDownError."""
        while not self._publish():
            pass  # a flush in between; the next reading has a number that Redis knows
        self._take_over()

    def _publish(self) -> bool:
        number: Any = self._begin(keys=[self._reading_key, self._version_key])
        now = now_ms()
        with self._database.session() as session:
            rows = session.scalars(
                select(Revocation).where(
                    Revocation.expires_at > now, Revocation.subject.not_like(f"{USED}%")
                )
            )
            pairs: list[tuple[Any, ...]] = [(row.subject, row.issued_until) for row in rows]
        return bool(
            self._write(
                keys=[self._reading_key, self._version_key, self._hash],
                args=[number, *chain.from_iterable(pairs)],
            )
        )

    def _look(self) -> None:
        """Take over what changed; after a flush, tell Redis anew."""
        version: Any = self._redis.get(self._version_key)
        if version is None:
            self.publish()
        elif version != self._version:
            self._take_over()
        self._looked = time.monotonic()

    def _take_over(self) -> None:
        pipe = self._redis.pipeline(transaction=True)
        pipe.get(self._version_key)
        pipe.hgetall(self._hash)
        self._version, rows = pipe.execute()
        # Expired entries do no harm: every token that they refuse has expired as well.
        self._known = {subject.decode(): int(until) for subject, until in rows.items()}
