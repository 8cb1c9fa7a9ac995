"""From what has happened to messages for those who want to know.

The ledger notes each end of a job in the stream `ended`, in the same step that ends it; batches
and others write to `events`. Here every entry becomes one delivery for each endpoint that wants
it. Reading an entry twice changes nothing: a delivery's id follows from the entry and endpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
import redis

from tasks.jobs import Job
from tasks.outbox import WEBHOOK_GROUP
from tasks.webhooks import Endpoint
from workers.webhooks.context import WebhookContext, webhook_context
from workers.webhooks.payloads import (
    job_data,
    job_event,
    native_payload,
    openai_payload,
    response_event,
)

logger = logging.getLogger(__name__)

STREAMS = ("ended", "events")
ENTRIES_AT_ONCE = 500
TICK_SECONDS = 5.0  # then the next tick goes on
ABANDONED_MS = 30_000  # an entry read by a process that died is taken over after this

Entry = tuple[bytes, dict[bytes, bytes]]


@dataclass
class _Round:
    """What one pass has looked up already."""

    current: WebhookContext
    endpoints: dict[str, list[Endpoint]] = field(default_factory=dict)

    def endpoints_of(self, tenant: str) -> list[Endpoint]:
        if tenant not in self.endpoints:
            self.endpoints[tenant] = self.current.webhooks.of_tenant(tenant)
        return self.endpoints[tenant]


def tick() -> None:
    """Follow the streams up to now, then wake workers for what is due."""
    current = webhook_context()
    end = time.monotonic() + TICK_SECONDS
    for stream in STREAMS:
        name = f"{current.settings.key_prefix}{stream}"
        with contextlib.suppress(redis.ResponseError):  # the group is there
            current.redis.xgroup_create(name, WEBHOOK_GROUP, id="0", mkstream=True)
        while time.monotonic() < end and _follow(current, stream, name):
            continue
    woken = current.deliveries.wake()
    if woken:
        logger.info("deliveries due", extra={"action": "webhooks_woken", "messages": woken})


def _follow(current: WebhookContext, stream: str, name: str) -> int:
    """Handle some entries; how many there were."""
    entries = _read(current.redis, name)
    one_round = _Round(current)
    handled: list[bytes] = []
    try:
        for entry_id, fields in entries:
            event_id = f"{stream}-{entry_id.decode()}"
            if stream == "ended":
                _job_ended(one_round, event_id, fields)
            else:
                _something_happened(one_round, event_id, entry_id, fields)
            handled.append(entry_id)
    finally:
        # Together: most entries concern nobody, and what is handled again is noted once.
        if handled:
            current.redis.xack(name, WEBHOOK_GROUP, *handled)
    return len(entries)


def _read(client: redis.Redis, name: str) -> list[Entry]:
    abandoned = cast(
        "tuple[bytes, list[Entry], list[bytes]]",
        client.xautoclaim(
            name, WEBHOOK_GROUP, "follower", ABANDONED_MS, "0-0", count=ENTRIES_AT_ONCE
        ),
    )[1]
    if abandoned:
        return [entry for entry in abandoned if entry[1]]
    reply = cast(
        "Any", client.xreadgroup(WEBHOOK_GROUP, "follower", {name: ">"}, count=ENTRIES_AT_ONCE)
    )
    if not reply:
        return []
    rows = reply.values() if isinstance(reply, dict) else [row[1] for row in reply]
    entries = next(iter(rows))
    # RESP3 wraps the entries of a stream once more.
    return cast("list[Entry]", entries[0] if entries and isinstance(entries[0], list) else entries)


def _job_ended(one: _Round, event_id: str, fields: dict[bytes, bytes]) -> None:
    if fields.get(b"batch"):
        return  # a line of a batch: the batch itself is told of
    tenant, url = fields[b"tenant"].decode(), fields.get(b"webhook_url", b"").decode()
    endpoints = [endpoint for endpoint in one.endpoints_of(tenant) if endpoint.enabled]
    if not endpoints and not url:
        return
    record = cast(
        "dict[bytes, bytes]",
        one.current.redis.hgetall(
            f"{one.current.settings.key_prefix}job:{fields[b'job'].decode()}"
        ),
    )
    if not record:
        return  # kept no longer
    job = Job.from_record(record)
    native, openai = job_event(job), response_event(job)
    at = job.finished_at or 0
    payload = native_payload(native, at, job_data(job))
    for endpoint in endpoints:
        if endpoint.shape == "native" and endpoint.wants(native):
            _add(one, event_id, endpoint.id, tenant, native, payload, trace=job.traceparent)
        elif endpoint.shape == "openai" and openai and endpoint.wants(openai):
            subject = "resp_" + job.id.removeprefix("job_")
            body = openai_payload(_event_name(event_id), openai, at, subject)
            _add(one, event_id, endpoint.id, tenant, openai, body, trace=job.traceparent)
    if url:
        hidden = one.current.webhooks.ensure_hidden(tenant, url)
        _add(one, event_id, hidden, tenant, native, payload, trace=job.traceparent)


def _something_happened(
    one: _Round, event_id: str, entry_id: bytes, fields: dict[bytes, bytes]
) -> None:
    tenant, event = fields[b"tenant"].decode(), fields[b"type"].decode()
    url = fields.get(b"webhook_url", b"").decode()
    # Budgets have no object of their own: they are those of the tenant or of a user.
    subject = (fields.get(b"subject") or fields.get(b"user") or fields[b"tenant"]).decode()
    at = int(entry_id.partition(b"-")[0])
    data = {"id": subject, **orjson.loads(fields[b"data"])}
    if event.startswith("batch."):
        data["url"] = f"/v1/batch/{subject}"
    payload = native_payload(event, at, data)
    only = fields.get(b"endpoint", b"").decode()
    for endpoint in one.endpoints_of(tenant):
        if endpoint.id != only if only else not endpoint.wants(event):
            continue
        body = payload
        if endpoint.shape == "openai":
            body = openai_payload(_event_name(event_id), event, at, subject)
        _add(one, event_id, endpoint.id, tenant, event, body, once=bool(only))
    if url:
        hidden = one.current.webhooks.ensure_hidden(tenant, url)
        _add(one, event_id, hidden, tenant, event, payload)


def _add(
    one: _Round,
    event_id: str,
    endpoint: str,
    tenant: str,
    event: str,
    payload: bytes,
    *,
    once: bool = False,
    trace: str | None = None,
) -> None:
    one.current.deliveries.add(
        event_id,
        endpoint=endpoint,
        tenant=tenant,
        event_type=event,
        payload=payload,
        once=once,
        traceparent=trace,
    )


def _event_name(event_id: str) -> str:
    return "evt_" + hashlib.sha256(event_id.encode()).hexdigest()[:32]
