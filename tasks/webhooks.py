"""Webhook endpoints of a tenant: where to, which events, signed with which secret.

hook:endpoint:{id}   hash    the record
hooks:{tenant}       zset    endpoint id -> ms of creation
hook:secret:{tenant} string  signs what goes to a job's or a batch's own `webhook_url`
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self, cast

import orjson
import redis
from standardwebhooks import Webhook

from tasks.deliveries import delivery_id

NATIVE_EVENTS = (
    "job.succeeded", "job.failed", "job.cancelled", "job.expired",
    "batch.completed", "batch.failed", "batch.expired", "batch.cancelled",
    "webhook.disabled", "budget.threshold", "budget.exhausted", "webhook.test",
)  # fmt: skip
OPENAI_EVENTS = (
    "response.completed", "response.failed", "response.cancelled", "response.incomplete",
    "batch.completed", "batch.failed", "batch.expired", "batch.cancelled",
)  # fmt: skip
EVERYTHING = "*"
Shape = Literal["native", "openai"]

MAX_ENDPOINTS = 50  # of one tenant
ROTATION_SECONDS = 86_400  # both secrets sign for so long
SECRET_BYTES = 32
HIDDEN_SECONDS = 604_800  # an endpoint that stands for a job's own URL is kept after its last use


class WebhookError(Exception):
    """The endpoint cannot be had."""


class UnknownEndpointError(WebhookError):
    """No such webhook endpoint."""


class TooManyEndpointsError(WebhookError):
    """The tenant has as many webhook endpoints as are allowed."""


@dataclass(frozen=True)
class Endpoint:
    """A receiver. Times are milliseconds since 1970."""

    id: str
    tenant: str
    url: str
    name: str
    events: tuple[str, ...]  # "*": all native ones
    shape: Shape
    enabled: bool
    disabled_reason: str
    secret_hint: str
    failing_since: int | None
    created_at: int
    updated_at: int

    @classmethod
    def from_record(cls, record: Mapping[bytes, bytes]) -> Self:
        """Build from a Redis hash."""

        def text(name: bytes) -> str:
            return record.get(name, b"").decode()

        failing = record.get(b"failing_since")
        return cls(
            id=text(b"id"),
            tenant=text(b"tenant"),
            url=text(b"url"),
            name=text(b"name"),
            events=tuple(orjson.loads(record.get(b"events", b"[]"))),
            shape=cast(Shape, text(b"shape") or "native"),
            enabled=record.get(b"state") == b"enabled",
            disabled_reason=text(b"disabled_reason"),
            secret_hint=f"...{text(b'secret')[-4:]}",
            failing_since=int(failing) if failing else None,
            created_at=int(record.get(b"created_at", 0)),
            updated_at=int(record.get(b"updated_at", 0)),
        )

    def wants(self, event: str) -> bool:
        """Whether this event is to be sent here."""
        return self.enabled and (event in self.events or EVERYTHING in self.events)


def new_secret() -> str:
    """A signing secret as Standard Webhooks writes it."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signatures(signing: Sequence[str], message_id: str, at: datetime, body: bytes) -> str:
    """The header `webhook-signature`: one signature for each secret."""
    return " ".join(Webhook(secret).sign(message_id, at, body.decode()) for secret in signing)


class Webhooks:
    """The endpoints of all tenants, on one Redis."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._redis = client
        self._prefix = prefix

    def _key(self, *parts: str) -> str:
        return self._prefix + ":".join(parts)

    def create(
        self,
        tenant: str,
        url: str,
        *,
        events: Sequence[str],
        name: str = "",
        shape: Shape = "native",
    ) -> tuple[Endpoint, str]:
        """A new endpoint and its secret. Raises TooManyEndpointsError."""
        if self._redis.zcard(self._key("hooks", tenant)) >= MAX_ENDPOINTS:
            raise TooManyEndpointsError(TooManyEndpointsError.__doc__)
        endpoint_id, secret, now = f"we_{secrets.token_hex(16)}", new_secret(), _now()
        record: dict[Any, Any] = {
            "id": endpoint_id,
            "tenant": tenant,
            "url": url,
            "name": name,
            "events": orjson.dumps(list(events)),
            "shape": shape,
            "state": "enabled",
            "secret": secret,
            "created_at": now,
            "updated_at": now,
        }
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(self._key("hook:endpoint", endpoint_id), mapping=record)
        pipe.zadd(self._key("hooks", tenant), {endpoint_id: now})
        pipe.execute()
        return self.get(endpoint_id, tenant), secret

    def get(self, endpoint_id: str, tenant: str) -> Endpoint:
        """The endpoint. Raises UnknownEndpointError, also for another tenant's."""
        record = self._record(endpoint_id)
        if record.get(b"tenant") != tenant.encode() or b"hidden" in record:
            raise UnknownEndpointError(UnknownEndpointError.__doc__)
        return Endpoint.from_record(record)

    def _record(self, endpoint_id: str) -> dict[bytes, bytes]:
        name = self._key("hook:endpoint", endpoint_id)
        return cast("dict[bytes, bytes]", self._redis.hgetall(name))

    def of_tenant(self, tenant: str) -> list[Endpoint]:
        """All endpoints of a tenant, the newest first."""
        ids = cast("list[bytes]", self._redis.zrevrange(self._key("hooks", tenant), 0, -1))
        pipe = self._redis.pipeline(transaction=False)
        for endpoint_id in ids:
            pipe.hgetall(self._key("hook:endpoint", endpoint_id.decode()))
        return [Endpoint.from_record(record) for record in pipe.execute() if record]

    def update(
        self,
        endpoint_id: str,
        tenant: str,
        *,
        url: str | None = None,
        events: Sequence[str] | None = None,
        name: str | None = None,
        enabled: bool | None = None,
    ) -> Endpoint:
        """Change what is given. Enabling forgets earlier failures. Raises UnknownEndpointError."""
        before = self.get(endpoint_id, tenant)
        changes: dict[Any, Any] = {}
        if url is not None and url != before.url:
            changes["url"] = url
        if events is not None and tuple(events) != before.events:
            changes["events"] = orjson.dumps(list(events))
        if name is not None and name != before.name:
            changes["name"] = name
        if enabled is not None and enabled != before.enabled:
            changes["state"] = "enabled" if enabled else "disabled"
        if changes:
            record = self._key("hook:endpoint", endpoint_id)
            pipe = self._redis.pipeline(transaction=True)
            pipe.hset(record, mapping=changes | {"updated_at": _now()})
            if enabled is not None:
                pipe.hdel(record, "failing_since", "disabled_reason")
            pipe.execute()
        return self.get(endpoint_id, tenant)

    def delete(self, endpoint_id: str, tenant: str) -> None:
        """Delete an endpoint; what it was still to get is given up. Raises UnknownEndpointError."""
        self.get(endpoint_id, tenant)
        pipe = self._redis.pipeline(transaction=True)
        pipe.delete(self._key("hook:endpoint", endpoint_id))
        pipe.zrem(self._key("hooks", tenant), endpoint_id)
        pipe.execute()

    def rotate(self, endpoint_id: str, tenant: str, *, keep_old: bool = True) -> str:
        """A new secret. With `keep_old` the old one signs too for 24 hours.

        Raises UnknownEndpointError.
        """
        self.get(endpoint_id, tenant)
        record, secret = self._key("hook:endpoint", endpoint_id), new_secret()
        old = cast("bytes | None", self._redis.hget(record, "secret"))
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(record, mapping={"secret": secret, "updated_at": _now()})
        if keep_old and old:
            until = _now() + ROTATION_SECONDS * 1000
            pipe.hset(record, mapping={"old_secret": old, "old_until": until})
        else:
            pipe.hdel(record, "old_secret", "old_until")
        pipe.execute()
        return secret

    def default_secret(self, tenant: str) -> str:
        """The secret that signs what goes to `webhook_url`; made when first asked for."""
        name = self._key("hook:secret", tenant)
        self._redis.set(name, new_secret(), nx=True)
        return cast(bytes, self._redis.get(name)).decode()

    def ensure_hidden(self, tenant: str, url: str) -> str:
        """The id of the endpoint that stands for a `webhook_url`."""
        digest = hashlib.sha256(f"{tenant}\n{url}".encode()).hexdigest()[:32]
        endpoint_id, now = f"url_{digest}", _now()
        record = self._key("hook:endpoint", endpoint_id)
        fields = {
            "id": endpoint_id, "tenant": tenant, "url": url, "hidden": "1", "shape": "native",
            "state": "enabled", "created_at": now, "updated_at": now,
        }  # fmt: skip
        pipe = self._redis.pipeline(transaction=True)
        for name, value in fields.items():
            pipe.hsetnx(record, name, value)  # type: ignore[arg-type]
        pipe.expire(record, HIDDEN_SECONDS)
        pipe.execute()
        return endpoint_id

    def signing_secrets(self, endpoint: Mapping[bytes, bytes]) -> list[str]:
        """The secrets that sign for an endpoint's record now: two while one is being rotated."""
        if b"hidden" in endpoint:
            return [self.default_secret(endpoint[b"tenant"].decode())]
        found = [endpoint[b"secret"].decode()]
        if int(endpoint.get(b"old_until", 0)) > _now():
            found.append(endpoint[b"old_secret"].decode())
        return found

    def test(self, endpoint: Endpoint, event: str) -> str:
        """Have a test event sent to one endpoint, whatever it wants. Returns the delivery's id."""
        entry = cast(
            bytes,
            self._redis.xadd(
                self._key("events"),
                {
                    "type": event,
                    "tenant": endpoint.tenant,
                    "subject": f"test_{secrets.token_hex(8)}",
                    "webhook_url": "",
                    "data": orjson.dumps({"test": True}),
                    "endpoint": endpoint.id,
                },
                maxlen=100_000,
            ),
        )
        return delivery_id(f"events-{entry.decode()}", endpoint.id)

    def emit(self, tenant: str, event: str, subject: str, data: Mapping[str, Any]) -> None:
        """Tell the tenant's endpoints of something that is not the end of a job or batch.

        `event` is one of NATIVE_EVENTS; `subject` names what it is about.
        """
        self._redis.xadd(
            self._key("events"),
            {
                "type": event,
                "tenant": tenant,
                "subject": subject,
                "webhook_url": "",
                "data": orjson.dumps(dict(data)),
            },
            maxlen=100_000,
        )


def _now() -> int:
    return time.time_ns() // 1_000_000


def signed_headers(
    signing: Sequence[str], message_id: str, body: bytes, at: datetime | None = None
) -> dict[str, str]:
    """The headers of a delivery by the Standard Webhooks specification."""
    at = at or datetime.now(UTC)
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signatures(signing, message_id, at, body),
    }
