"""The scaler as it is deployed: its settings, its connections, and one tick."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import redis

from config.lanes import LANES, by_lane, counts_by_lane, seconds_by_lane
from config.settings import Settings, settings
from tasks.redis_client import connect as connect_redis
from workers.scaler.knobs import FleetLimits, Mode, QueueKnobs
from workers.scaler.kubernetes import Cluster
from workers.scaler.kubernetes import connect as connect_kubernetes
from workers.scaler.ledger_signals import LedgerSignalsReader
from workers.scaler.settings import QueueTarget, ScalerSettings
from workers.scaler.tick import run_tick

REDIS_TIMEOUT_SECONDS = 5.0
# Kubernetes tells every pod its namespace here, whether or not it has a variable for it.
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def configured(current: Settings) -> ScalerSettings:
    """The scaler's settings from those of the deployment."""
    least = counts_by_lane(current.scaler_min_replicas)
    most = counts_by_lane(current.scaler_max_replicas)
    waits = seconds_by_lane(current.scaler_wait_seconds)
    deployments = by_lane(current.scaler_deployments)
    return ScalerSettings(
        queues=tuple(
            QueueTarget(
                lane,
                deployments[lane],
                QueueKnobs(
                    slots_per_replica=current.max_workers,
                    cold_start_seconds=current.scaler_cold_start_seconds,
                    tick_seconds=current.scaler_interval,
                    target_wait_seconds=waits[lane],
                    violation_target=current.scaler_late_share,
                    min_replicas=least[lane],
                    max_replicas=most[lane],
                    scale_to_zero=least[lane] == 0,
                    cost_per_replica_hour=current.scaler_cost_per_replica_hour,
                ),
            )
            for lane in LANES
        ),
        mode=Mode(current.scaler_mode),
        limits=FleetLimits(current.scaler_max_total_replicas, current.scaler_max_cost_per_hour),
        unit=current.scaler_unit,
        namespace=current.scaler_namespace or _own_namespace(),
        holder=f"{socket.gethostname()}:{os.getpid()}",
        prefix=current.key_prefix,
    )


@dataclass(frozen=True)
class _Live:
    settings: ScalerSettings
    redis: redis.Redis
    ledger: LedgerSignalsReader
    cluster: Cluster | None


@cache
def _live() -> _Live:
    """Made at the first tick of a process, so in the child that runs it, never in its parent."""
    current = settings()
    scaler = configured(current)
    client = connect_redis(current.broker_url, timeout=REDIS_TIMEOUT_SECONDS)
    return _Live(
        settings=scaler,
        redis=client,
        ledger=LedgerSignalsReader(client, current.key_prefix),
        cluster=connect_kubernetes(scaler.namespace, current.scaler_kubeconfig),
    )


def tick() -> None:
    """Decide on every queue, and do it as far as SCALER_MODE allows. Raises redis.RedisError."""
    live = _live()
    run_tick(live.settings, live.redis, time.time(), ledger=live.ledger, cluster=live.cluster)


def _own_namespace() -> str:
    return NAMESPACE_FILE.read_text().strip() if NAMESPACE_FILE.exists() else "default"
