"""Sending webhooks: claim what is due, post it, write down what came of it."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from urllib.parse import urlsplit

from tasks.deliveries import Claimed, Outcome
from tasks.tracing import parent_headers
from tasks.webhooks import signed_headers
from workers.webhooks.context import WebhookContext, webhook_context
from workers.webhooks.egress import Posted

logger = logging.getLogger(__name__)

GONE = 410
LEASE_MARGIN_SECONDS = 15.0  # for what comes before and after the call
STAY_SECONDS = 60.0  # one message serves what is due for so long
MAX_RETRY_AFTER_SECONDS = 86_400
LEAST_WAIT_SECONDS = 1.0  # before a delivery is tried again, whatever its schedule


def deliver_due() -> None:
    """Deliver until nothing can be sent now."""
    current = webhook_context()
    end = time.monotonic() + STAY_SECONDS
    while time.monotonic() < end:
        claimed = current.deliveries.claim(
            lease_seconds=current.settings.webhook_timeout_seconds + LEASE_MARGIN_SECONDS,
            per_endpoint=current.settings.webhook_endpoint_concurrency,
            per_tenant=current.settings.webhook_tenant_concurrency,
        )
        if claimed is None:
            return
        _deliver(current, claimed)


def _deliver(current: WebhookContext, claimed: Claimed) -> None:
    delivery = claimed.delivery
    with current.tracing.span(
        "webhook delivery",
        "client",
        {
            "http.request.method": "POST",
            "http.request.resend_count": delivery.fence - 1,
            "server.address": urlsplit(claimed.url).hostname,  # the rest of a URL may be secret
            "inferenceflow.webhook.id": delivery.id,
            "inferenceflow.webhook.type": delivery.type,
            "inferenceflow.tenant": delivery.tenant,
        },
        parent=parent_headers(delivery.traceparent),
    ) as span:
        outcome, posted = _send(current, claimed)
        span.add({"http.response.status_code": posted.status})
        if outcome != "delivered":
            span.fail(outcome)


def _send(current: WebhookContext, claimed: Claimed) -> tuple[Outcome, Posted]:
    delivery = claimed.delivery
    at = datetime.now(UTC)
    headers = signed_headers(
        current.webhooks.signing_secrets(claimed.endpoint), delivery.id, delivery.payload, at
    )
    posted = current.sender.post(claimed.url, delivery.payload, headers)
    outcome, next_at, wait = _judge(claimed, posted)
    current.deliveries.settle(
        delivery,
        outcome,
        attempt={
            "number": delivery.fence,
            "at": at.isoformat(timespec="milliseconds"),
            "status": posted.status,
            "error": posted.error or None,
            "latency_ms": posted.latency_ms,
            "response": posted.excerpt,
        },
        next_at=next_at,
        wait_seconds=wait,
        disable_seconds=current.settings.webhook_disable_seconds,
    )
    current.metrics.record_webhook_delivery(outcome, posted.latency_ms / 1000)
    logger.info(
        "webhook sent" if outcome == "delivered" else "webhook not delivered",
        extra={
            "action": "webhook",
            "delivery": delivery.id,
            "endpoint": delivery.endpoint,
            "tenant": delivery.tenant,
            "outcome": outcome,
            "status": posted.status,
            "latency_ms": posted.latency_ms,
        },
    )
    return outcome, posted


def _judge(claimed: Claimed, posted: Posted) -> tuple[Outcome, int | None, float]:
    """What an answer means: 2xx is success, 410 the end, all else (3xx too) is tried again.

    Returns also when to try again, and the seconds that must pass first: by no clock of ours.
    """
    if posted.status is not None and 200 <= posted.status < 300:
        return "delivered", None, 0.0
    if posted.status == GONE:
        return "gone", None, 0.0
    next_at = claimed.delivery.next_try()
    if next_at is None:
        return "failed", None, 0.0
    asked = posted.retry_after
    if asked.isdecimal():
        seconds = min(int(asked), MAX_RETRY_AFTER_SECONDS)
        return "retry", next_at, max(seconds, LEAST_WAIT_SECONDS)
    return "retry", next_at, LEAST_WAIT_SECONDS
