"""What the routes work with, made once for a process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import cast

import redis
from flask import current_app
from prometheus_client import CollectorRegistry

from app.repeats import Repeats
from app.revocation import Revocations
from app.waiting import WaitHub
from config.catalogue import Catalogue, load_catalogue
from config.settings import Settings
from tasks.accounts import Accounts
from tasks.batches import Batches
from tasks.cache_rules import configured_rules
from tasks.control import Control
from tasks.database import Database
from tasks.deliveries import Deliveries
from tasks.egress import AllowList
from tasks.files import FileStore
from tasks.ledger import Ledger
from tasks.metrics import Metrics
from tasks.prices import Prices, load_prices
from tasks.recent import Recent
from tasks.redis_client import connect
from tasks.replication import Replication
from tasks.streams import JobStreams
from tasks.tracing import Tracing, open_tracing
from tasks.webhooks import Webhooks

CONTROL_SECONDS = 8.0  # that a worker has for an answer


@dataclass(frozen=True)
class Services:
    """Everything outside the process that a route may use."""

    settings: Settings
    job_redis: redis.Redis
    cache_redis: redis.Redis
    ledger: Ledger
    control: Control
    hub: WaitHub
    streams: JobStreams
    catalogue: Catalogue
    batches: Batches
    files: FileStore
    webhooks: Webhooks
    deliveries: Deliveries
    egress: AllowList
    database: Database
    accounts: Accounts
    revocations: Revocations
    prices: Prices
    repeats: Repeats
    registry: CollectorRegistry
    metrics: Metrics
    tracing: Tracing


def make_services(settings: Settings) -> Services:
    """Connect to what the settings name (lazily: nothing has to be up yet)."""
    client = connect(
        settings.broker_url, timeout=settings.redis_timeout_seconds, retry_timeouts=False
    )
    # Less patience here: the look for a repeat comes before the record, and where Redis is frozen a
    # submission must be refused within a second.
    cache_client = connect(
        settings.cache_url, timeout=settings.redis_timeout_seconds / 2, retry_timeouts=False
    )
    database = Database(settings.database_url)
    replication = None
    if settings.durability == "replicated":
        replication = Replication(settings.replication_timeout_seconds)
    registry = CollectorRegistry()
    catalogue = load_catalogue(settings.models_file)
    return Services(
        settings=settings,
        job_redis=client,
        cache_redis=cache_client,
        ledger=Ledger(client, settings.key_prefix, replication=replication),
        control=Control(
            connect(settings.broker_url, timeout=CONTROL_SECONDS + 1, pool_size=8),
            settings.key_prefix,
        ),
        hub=WaitHub(client, settings.key_prefix, most=settings.max_tenant_held),
        streams=JobStreams(client, settings.key_prefix),
        catalogue=catalogue,
        batches=Batches(client, settings.key_prefix),
        files=FileStore(client, settings.key_prefix, settings.files_url),
        webhooks=Webhooks(client, settings.key_prefix),
        deliveries=Deliveries(client, settings.key_prefix),
        egress=AllowList(settings.webhook_allow_hosts),
        # Now, not at the first request: a second of work that many requests would do at once.
        prices=load_prices(settings.models_file),
        database=database,
        accounts=Accounts(client, settings.key_prefix, database),
        revocations=Revocations(client, settings.key_prefix, database),
        repeats=Repeats(
            cache_client, f"{settings.key_prefix}cache", configured_rules(settings, catalogue)
        ),
        registry=registry,
        metrics=Metrics(
            Recent(client, settings.key_prefix),
            registry=None if "PROMETHEUS_MULTIPROC_DIR" in os.environ else registry,
            tenants=settings.metrics_tenants,
        ),
        tracing=open_tracing(settings, "inferenceflow-api"),
    )


def services() -> Services:
    """The services of the current app."""
    return cast(Services, current_app.extensions["inferenceflow"])
