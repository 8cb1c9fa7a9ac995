"""The ledger of webhook deliveries: one record for each event and endpoint, sent until it arrives.

Every step is one script; the keys are listed in `tasks/lua/hook_prelude.lua`. A delivery's id is
the `webhook-id` that its receiver sees, the same in every attempt.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import orjson
import redis

from tasks.messages import deliver_message
from tasks.scripts import load_script

# Seconds after the event at which it is sent, until an attempt succeeds.
SCHEDULE = (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
JITTER = 0.1  # of the time since the event, either way
KEEP_SECONDS = 604_800
KEPT_PER_ENDPOINT = 1_000
KEPT_ATTEMPTS = 50
MAX_WAKE_MESSAGES = 500

Outcome = Literal["delivered", "retry", "failed", "gone"]


class UnknownDeliveryError(Exception):
    """No such delivery."""


class EndpointDisabledError(Exception):
    """The endpoint is disabled."""


@dataclass(frozen=True)
class Delivery:
    """One message for one endpoint. Times are milliseconds since 1970."""

    id: str
    endpoint: str
    tenant: str
    type: str
    payload: bytes
    state: str  # pending, retrying, delivered, failed, discarded
    fence: int  # attempts in all
    tries: int  # attempts since the event or the latest redelivery
    since: int  # time of the event or of the latest redelivery
    created_at: int
    due_at: int | None
    once: bool  # a test: not tried again
    traceparent: str | None = None  # W3C trace context of the job that it tells of

    @classmethod
    def from_record(cls, record: Mapping[bytes, bytes]) -> Self:
        """Build from a Redis hash."""
        due, trace = record.get(b"due_at"), record.get(b"traceparent")
        return cls(
            id=record[b"id"].decode(),
            endpoint=record[b"endpoint"].decode(),
            tenant=record[b"tenant"].decode(),
            type=record[b"type"].decode(),
            payload=record[b"payload"],
            state=record[b"state"].decode(),
            fence=int(record[b"fence"]),
            tries=int(record[b"tries"]),
            since=int(record[b"since"]),
            created_at=int(record[b"created_at"]),
            due_at=int(due) if due else None,
            once=record.get(b"once") == b"1",
            traceparent=trace.decode() if trace else None,
        )

    def next_try(self) -> int | None:
        """When to try again after `tries` failures, in ms; None: never."""
        if self.once or self.tries >= len(SCHEDULE):
            return None
        spread = random.uniform(1 - JITTER, 1 + JITTER)
        return round(self.since + SCHEDULE[self.tries] * 1000 * spread)


@dataclass(frozen=True)
class Claimed:
    """A delivery to make now."""

    delivery: Delivery
    url: str
    endpoint: dict[bytes, bytes]  # its record


def delivery_id(event_id: str, endpoint_id: str) -> str:
    """Always the same for an event and an endpoint."""
    return "msg_" + hashlib.sha256(f"{event_id}\n{endpoint_id}".encode()).hexdigest()[:32]


class Deliveries:
    """The operations of the delivery ledger."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._redis = client
        self._prefix = prefix
        self._message = deliver_message()
        before = ("hook_prelude",)
        self._add = load_script(client, "hook_add", before=before)
        self._claim = load_script(client, "hook_claim", before=before)
        self._settle = load_script(client, "hook_settle", before=before)
        self._wake = load_script(client, "hook_wake", before=before)
        self._redeliver = load_script(client, "hook_redeliver", before=before)

    def _key(self, *parts: str) -> str:
        return self._prefix + ":".join(parts)

    def _call(self, script: Any, *args: object) -> Any:
        return script(args=[self._prefix, "", *args])

    def add(
        self,
        event_id: str,
        *,
        endpoint: str,
        tenant: str,
        event_type: str,
        payload: bytes,
        once: bool = False,
        traceparent: str | None = None,
    ) -> str:
        """Note a message to be delivered at once; repeated, it changes nothing. Returns its id."""
        message_id = delivery_id(event_id, endpoint)
        self._call(
            self._add, message_id, endpoint, tenant, event_type, payload, KEEP_SECONDS * 1000,
            self._message, KEPT_PER_ENDPOINT, "1" if once else "", traceparent or "",
        )  # fmt: skip
        return message_id

    def claim(self, *, lease_seconds: float, per_endpoint: int, per_tenant: int) -> Claimed | None:
        """The next delivery that is due, endpoints in turn; None when nothing can be sent now."""
        reply = self._call(self._claim, round(lease_seconds * 1000), per_endpoint, per_tenant)
        if not reply:
            return None
        record, endpoint = (dict(zip(flat[::2], flat[1::2], strict=True)) for flat in reply)
        return Claimed(Delivery.from_record(record), endpoint[b"url"].decode(), endpoint)

    def settle(
        self,
        delivery: Delivery,
        outcome: Outcome,
        *,
        attempt: Mapping[str, Any],
        next_at: int | None,
        disable_seconds: float,
        wait_seconds: float = 0.0,
    ) -> bool:
        """Write down what came of an attempt. False: another one has taken over.

        The next try is at `next_at` (ms by Redis' clock), and not before `wait_seconds` from now.
        """
        return bool(
            self._call(
                self._settle, delivery.id, delivery.fence, outcome, next_at or 0,
                orjson.dumps(dict(attempt)), round(disable_seconds * 1000), KEPT_ATTEMPTS,
                round(wait_seconds * 1000),
            )
        )  # fmt: skip

    def wake(self) -> int:
        """Send workers as many messages as deliveries are due; how many were missing."""
        return int(self._call(self._wake, self._message, MAX_WAKE_MESSAGES))

    def redeliver(self, message_id: str, *, endpoint: str, tenant: str) -> None:
        """Send it again, with the same id. Raises UnknownDeliveryError, EndpointDisabledError."""
        reply = self._call(self._redeliver, message_id, tenant, endpoint, self._message)
        if reply == b"unknown":
            raise UnknownDeliveryError(UnknownDeliveryError.__doc__)
        if reply == b"disabled":
            raise EndpointDisabledError(EndpointDisabledError.__doc__)

    def first_attempt(self, message_id: str) -> dict[str, Any] | None:
        """What came of the first attempt; None before it was made."""
        found = cast(
            "list[bytes]", self._redis.lrange(self._key("hook:attempts", message_id), 0, 0)
        )
        return orjson.loads(found[0]) if found else None

    def page(
        self, endpoint: str, *, after: str | None = None, limit: int = 20
    ) -> list[tuple[Delivery, list[dict[str, Any]]]]:
        """Deliveries of an endpoint with their attempts, newest first."""
        name, start = self._key("hook:deliveries", endpoint), 0
        if after is not None:
            rank = cast("int | None", self._redis.zrevrank(name, after))
            if rank is None:
                raise UnknownDeliveryError(UnknownDeliveryError.__doc__)
            start = rank + 1
        ids = cast("list[bytes]", self._redis.zrevrange(name, start, start + limit - 1))
        pipe = self._redis.pipeline(transaction=False)
        for raw in ids:
            pipe.hgetall(self._key("hook:delivery", raw.decode()))
            pipe.lrange(self._key("hook:attempts", raw.decode()), 0, -1)
        rows = pipe.execute()
        return [
            (Delivery.from_record(record), [orjson.loads(one) for one in log])
            for record, log in zip(rows[::2], rows[1::2], strict=True)
            if record
        ]
