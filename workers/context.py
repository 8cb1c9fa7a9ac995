"""What the work of a worker process needs, made once and shared by its threads."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache

import redis
from prometheus_client import CollectorRegistry

from config.catalogue import Catalogue, ProviderConfig, load_catalogue
from config.lanes import seconds_by_lane
from config.settings import Settings, settings
from tasks.accounts import Accounts
from tasks.batches import Batches
from tasks.cache_rules import configured_rules
from tasks.celery_app import celery_app
from tasks.control import Control
from tasks.database import Database
from tasks.files import FileStore
from tasks.inference import Priority
from tasks.ledger import Ledger
from tasks.metrics import Metrics
from tasks.presence import presence_channels
from tasks.recent import Recent
from tasks.redis_client import connect
from tasks.streams import JobStreams
from tasks.tracing import Tracing, open_tracing
from workers.cache.cache import SemanticCache
from workers.cache.embedding import load_embedder
from workers.cache.judgement_metrics import JudgementCollector
from workers.cache.shadow import ShadowJudge, ShadowPolicy
from workers.cache.verifier import load_verifier
from workers.cancellations import CancelListener
from workers.lease import LeaseKeeper
from workers.providers.registry import build_providers
from workers.router.router import Router
from workers.router.shared_state import SharedState
from workers.shadowing import Shadow
from workers.single_flight import SingleFlight
from workers.stream import StreamKeeper

# A worker waits longer for Redis than a client of the API would.
REDIS_TIMEOUT_SECONDS = 5.0
# A cache that does not answer at once is no help: the job goes on without it.
CACHE_TIMEOUT_SECONDS = 0.5


@dataclass(frozen=True)
class WorkerContext:
    """Everything outside the job that running it may use."""

    settings: Settings
    worker: str
    redis: redis.Redis
    ledger: Ledger
    leases: LeaseKeeper
    streams: StreamKeeper
    cache: SemanticCache
    shadow: Shadow
    flights: SingleFlight
    control: Control
    router: Router
    registry: CollectorRegistry
    metrics: Metrics
    tracing: Tracing
    batches: Batches
    files: FileStore
    accounts: Accounts


def credentials(settings: Settings, catalogue: Catalogue) -> dict[str, ProviderConfig]:
    """Keys and base URLs from the settings named after the catalogue's providers."""
    found = {}
    for name in catalogue.providers:
        key = getattr(settings, f"{name}_api_key", None)
        url = getattr(settings, f"{name}_base_url", None)
        found[name] = ProviderConfig(
            api_key=key.get_secret_value() if key else None, base_url=str(url) if url else None
        )
    return found


@cache
def context() -> WorkerContext:
    """This process's context. Connects when first used; nothing needs to be up yet."""
    current = settings()
    client = connect(
        current.broker_url,
        timeout=REDIS_TIMEOUT_SECONDS,
        pool_size=current.max_workers + 16,
    )
    waits = seconds_by_lane(current.scaler_wait_seconds)
    ledger = Ledger(
        client,
        current.key_prefix,
        objectives={Priority(lane): seconds for lane, seconds in waits.items()},
    )
    catalogue = load_catalogue(current.models_file)
    embedder = load_embedder(current.embedding_model)
    worker = f"{socket.gethostname()}:{os.getpid()}"
    leases = LeaseKeeper(ledger, current.lease_seconds)
    serving = presence_channels(
        current.key_prefix, worker, celery_app.amqp.queues.consume_from or ()
    )
    CancelListener(client, ledger.key("worker", worker), leases.lose, serving).start()
    registry = CollectorRegistry()
    metrics = Metrics(
        Recent(client, current.key_prefix), registry=registry, tenants=current.metrics_tenants
    )
    tracing = open_tracing(current, "inferenceflow-worker")
    cache_client = connect(current.cache_url, timeout=CACHE_TIMEOUT_SECONDS)
    cache_prefix = f"{current.key_prefix}cache"
    answers = SemanticCache(
        cache_client,
        embedder,
        load_verifier(),
        prefix=cache_prefix,
        rules=configured_rules(current, catalogue),
        max_bytes=current.cache_max_bytes,
        embedding_delay=embedder.delay,
        on_event=metrics.record_cache_event,
    )
    registry.register(JudgementCollector(cache_client, cache_prefix))
    judge = ShadowJudge(
        answers,
        cache_client,
        cache_prefix,
        policy=ShadowPolicy(
            rate=current.cache_shadow_rate,
            calls_per_hour=current.cache_shadow_calls_per_hour,
            max_error_rate=current.cache_max_error_rate,
        ),
    )
    router = Router(
        catalogue,
        build_providers(catalogue, credentials(current, catalogue), tracing),
        SharedState(
            client,
            prefix=f"{current.key_prefix}router:",
            on_fallback=metrics.record_router_fallback,
        ),
        embed=embedder.embed,
        on_attempt=metrics.record_attempt,
    )
    return WorkerContext(
        settings=current,
        redis=client,
        worker=worker,
        ledger=ledger,
        leases=leases,
        streams=StreamKeeper(JobStreams(client, current.key_prefix)),
        cache=answers,
        shadow=Shadow(judge, router, metrics),
        control=Control(client, current.key_prefix),
        flights=SingleFlight(client, prefix=f"{current.key_prefix}flight:"),
        router=router,
        batches=Batches(client, current.key_prefix),
        files=FileStore(client, current.key_prefix, current.files_url),
        accounts=Accounts(client, current.key_prefix, Database(current.database_url)),
        registry=registry,
        metrics=metrics,
        tracing=tracing,
    )
