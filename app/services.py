"""What the routes work with, made once for a process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import redis
from flask import current_app

from app.repeats import Repeats
from app.revocation import Revocations
from app.waiting import WaitHub
from config.catalogue import Catalogue, load_catalogue
from config.settings import Settings
from tasks.accounts import Accounts
from tasks.control import Control
from tasks.database import Database
from tasks.ledger import Ledger
from tasks.prices import Prices, load_prices
from tasks.redis_client import connect
from tasks.replication import Replication
from tasks.streams import JobStreams

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
    database: Database
    accounts: Accounts
    revocations: Revocations
    repeats: Repeats

    @property
    def prices(self) -> Prices:
        """What requests cost at most; worked out when first needed."""
        return load_prices(self.settings.models_file)


def make_services(settings: Settings) -> Services:
    """Connect to what the settings name (lazily: nothing has to be up yet)."""
    client = connect(settings.broker_url, timeout=settings.redis_timeout_seconds)
    cache_client = connect(settings.cache_url, timeout=settings.redis_timeout_seconds)
    database = Database(settings.database_url)
    replication = None
    if settings.durability == "replicated":
        replication = Replication(settings.replication_timeout_seconds)
    return Services(
        settings=settings,
        job_redis=client,
        cache_redis=cache_client,
        ledger=Ledger(client, settings.key_prefix, replication=replication),
        control=Control(
            connect(settings.broker_url, timeout=CONTROL_SECONDS + 1, pool_size=8),
            settings.key_prefix,
        ),
        hub=WaitHub(client, settings.key_prefix),
        streams=JobStreams(client, settings.key_prefix),
        catalogue=load_catalogue(settings.models_file),
        database=database,
        accounts=Accounts(client, settings.key_prefix, database),
        revocations=Revocations(client, settings.key_prefix, database),
        repeats=Repeats(cache_client, settings),
    )


def services() -> Services:
    """The services of the current app."""
    return cast(Services, current_app.extensions["inferenceflow"])
