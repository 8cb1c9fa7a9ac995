"""What delivering webhooks needs: little, so that its processes stay small."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import redis
from prometheus_client import CollectorRegistry

from config.settings import Settings, settings
from tasks.deliveries import Deliveries
from tasks.egress import AllowList
from tasks.metrics import WebhookMetrics
from tasks.redis_client import connect
from tasks.tracing import Tracing, open_tracing
from tasks.webhooks import Webhooks
from workers.webhooks.egress import WebhookSender

REDIS_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class WebhookContext:
    """Made once for a process."""

    settings: Settings
    redis: redis.Redis
    webhooks: Webhooks
    deliveries: Deliveries
    sender: WebhookSender
    registry: CollectorRegistry
    metrics: WebhookMetrics
    tracing: Tracing


@cache
def webhook_context() -> WebhookContext:
    """This process's context."""
    current = settings()
    client = connect(
        current.broker_url,
        timeout=REDIS_TIMEOUT_SECONDS,
        pool_size=current.webhook_concurrency + 16,
    )
    registry = CollectorRegistry()
    return WebhookContext(
        settings=current,
        redis=client,
        webhooks=Webhooks(client, current.key_prefix),
        deliveries=Deliveries(client, current.key_prefix),
        sender=WebhookSender(
            AllowList(current.webhook_allow_hosts), current.webhook_timeout_seconds
        ),
        registry=registry,
        metrics=WebhookMetrics(registry),
        tracing=open_tracing(current, "inferenceflow-webhooks"),
    )
