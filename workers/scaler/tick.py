"""One tick of the live scaler: read, decide, write, remember. All I/O of the scaler is here."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from redis.exceptions import RedisError

from tasks.arrivals import read_arrivals
from tasks.scaler_state import (
    claim_tick,
    count_tick,
    load_memories,
    read_pause,
    save_tick,
    token_is_newest,
)
from workers.scaler.decide import Decision, Memory, decide_all
from workers.scaler.forecast import predict_traffic
from workers.scaler.knobs import Mode
from workers.scaler.kubernetes import (
    Cluster,
    ScaleResult,
    read_replicas,
    record_event,
    scale_infrastructure,
)
from workers.scaler.lease import LEASE_SECONDS, Fence, acquire_lease
from workers.scaler.log import decision_record, event_message, log_decision
from workers.scaler.memory import (
    QueueMemory,
    ServiceTimes,
    dump_memory,
    parse_memory,
    update_service,
)
from workers.scaler.settings import QueueTarget, ScalerSettings
from workers.scaler.signals import (
    LedgerReader,
    LedgerSignals,
    QueueSignals,
    Replicas,
    read_recent,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)

# A tick that comes late (the beat was down) does not add hours that nobody saw.
LONGEST_TICK_SECONDS = 300.0


@dataclass(frozen=True)
class _Seen:
    """One queue as this tick found it."""

    target: QueueTarget
    memory: QueueMemory
    signals: QueueSignals
    ledger: LedgerSignals | None


def run_tick(
    settings: ScalerSettings,
    redis_client: Any,
    now: float,
    *,
    ledger: LedgerReader,
    cluster: Cluster | None = None,
) -> list[Decision]:
    """Decide on every queue once, and do it as far as the mode allows.

    Without a `cluster`, replicas are the workers that `ledger` knows of, and decisions are only
    recommended. Returns the decisions; an empty list while another process holds the lock.

    Raises RedisError if the scaler's own state cannot be read or stored: without it nothing may
    be changed. Signals that cannot be read make their queue hold.
    """
    token = claim_tick(redis_client, settings.holder, LEASE_SECONDS, prefix=settings.prefix)
    if token is None:
        return []
    stored = load_memories(redis_client, prefix=settings.prefix)
    seen = [
        _look(settings, target, stored.get(target.queue), redis_client, now, ledger, cluster)
        for target in settings.queues
    ]
    decided = decide_all(
        [(one.signals, one.memory.decisions, one.memory.prior) for one in seen],
        {one.target.queue: one.target.knobs for one in seen},
        settings.limits,
    )
    paused = read_pause(redis_client, prefix=settings.prefix) is not None
    fence = _fence(settings, redis_client, token, now, cluster)
    records: dict[str, dict[str, Any]] = {}
    for one, (decision, _) in zip(seen, decided, strict=True):
        result = _apply(settings, one, decision, now, cluster, fence, paused=paused)
        record = decision_record(
            decision,
            mode=settings.mode,
            knobs=one.target.knobs,
            paused=paused,
            result=result,
        )
        log_decision(record)
        records[one.target.queue] = record
        if cluster is not None and result is not None and result.applied:
            _attempt(
                "scaler event not written",
                one.target.queue,
                partial(
                    record_event,
                    cluster,
                    one.target.deployment,
                    reason="Scaled",
                    message=event_message(record),
                    now=now,
                ),
            )
    memories = {
        one.target.queue: replace(one.memory, decisions=memory, ticked_at=now)
        for one, (_, memory) in zip(seen, decided, strict=True)
    }
    _store(settings, redis_client, token, seen, memories, records, now)
    return [decision for decision, _ in decided]


def _attempt(message: str, queue: str, action: Callable[[], T]) -> T | None:
    """The value of `action`; None, and a warning, if the cluster, the ledger or Redis fails."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        return action()
    except (ApiException, HTTPError, RedisError, OSError) as error:
        logger.warning(
            message,
            extra={"action": "scaler.degraded", "queue": queue, "error": type(error).__name__},
        )
        return None


def _look(
    settings: ScalerSettings,
    target: QueueTarget,
    stored: str | None,
    client: Any,
    now: float,
    ledger: LedgerReader,
    cluster: Cluster | None,
) -> _Seen:
    """Read the signals of one queue; what cannot be read is None."""
    knobs, queue = target.knobs, target.queue
    memory = None if stored is None else parse_memory(stored)
    if memory is None:
        per_unit = settings.seconds_per_job
        if settings.unit == "tokens":
            per_unit /= settings.tokens_per_job
        memory = QueueMemory(
            decisions=Memory(beta=knobs.beta),
            service=ServiceTimes(settings.seconds_per_job, per_unit),
        )
    found = _attempt("scaler cannot read the ledger", queue, lambda: ledger(queue, now))
    if found is not None:
        service = update_service(memory.service, found, per_tokens=settings.unit == "tokens")
        memory = replace(memory, service=service)
    replicas: Replicas | None = None
    if cluster is not None:
        replicas = _attempt(
            "scaler cannot read the deployment",
            queue,
            lambda: read_replicas(
                cluster, target.deployment, now=now, stuck_after=knobs.stuck_after_seconds
            ),
        )
    elif found is not None:
        replicas = Replicas(len(found.running_by_worker), len(found.running_by_worker))
    known = memory
    refitted = _attempt(
        "scaler cannot read the history",
        queue,
        lambda: _refit(settings, target, known, client, now),
    )
    memory = memory if refitted is None else refitted
    started = memory.history_started
    recent = _attempt(
        "scaler cannot read the arrivals",
        queue,
        lambda: read_recent(
            client, queue, now, started=started, unit=settings.unit, prefix=settings.prefix
        ),
    )
    if recent is not None and memory.history_started is None and recent.history_seconds > 0.0:
        memory = replace(memory, history_started=now - recent.history_seconds)
    signals = QueueSignals(
        queue=queue,
        at=now,
        replicas=replicas,
        depth=None if found is None else found.depth,
        running=None if found is None else found.running,
        oldest_age=None if found is None else found.oldest_age,
        arrivals=recent,
        seconds_per_unit=memory.service.seconds_per_unit,
        seconds_per_job=memory.service.seconds_per_job,
        started_total=0 if found is None else found.started_total,
        late_total=0 if found is None else found.late_total,
    )
    return _Seen(target, memory, signals, found)


def _refit(
    settings: ScalerSettings, target: QueueTarget, memory: QueueMemory, client: Any, now: float
) -> QueueMemory:
    """Learn the season anew, once an hour. A fit that fails leaves the last one in place."""
    if now - memory.refitted_at < settings.refit_seconds:
        return memory
    arrivals = read_arrivals(
        client,
        target.queue,
        settings.lookback_hours * 3600.0,
        now=now,
        prefix=settings.prefix,
    )
    tried = replace(memory, refitted_at=now)
    if any(arrivals.requests):
        started = float(arrivals.start)
        known = memory.history_started
        tried = replace(tried, history_started=started if known is None else min(started, known))
    if now - arrivals.start < target.knobs.min_history_seconds:
        return tried
    try:
        prior = predict_traffic(settings.lookback_hours, arrivals=arrivals, unit=settings.unit)
    except (RuntimeError, ValueError, OSError) as error:
        logger.warning(
            "scaler cannot fit the season",
            extra={
                "action": "scaler.fit_failed",
                "queue": target.queue,
                "error": type(error).__name__,
            },
        )
        return tried
    return replace(tried, prior=prior)


def _fence(
    settings: ScalerSettings, client: Any, token: int, now: float, cluster: Cluster | None
) -> Fence | None:
    """The right to write: the Lease in a cluster, confirmed together with the lock in Redis."""
    if cluster is None or settings.mode is Mode.RECOMMEND:
        return None
    lease = _attempt(
        "scaler cannot take the lease",
        "",
        lambda: acquire_lease(
            cluster.coordination,
            cluster.namespace,
            settings.lease_name,
            holder=settings.holder,
            now=now,
        ),
    )
    if lease is None:
        return None
    held = lease.confirm
    return replace(
        lease,
        confirm=lambda: token_is_newest(client, token, prefix=settings.prefix) and held(),
    )


def _apply(
    settings: ScalerSettings,
    seen: _Seen,
    decision: Decision,
    now: float,
    cluster: Cluster | None,
    fence: Fence | None,
    *,
    paused: bool,
) -> ScaleResult | None:
    """Carry out one decision; None if there is nothing to carry out or it failed."""
    target, before = decision.target, decision.before
    if cluster is None or target is None or before is None:
        return None
    return _attempt(
        "scaler cannot scale",
        seen.target.queue,
        lambda: scale_infrastructure(
            target,
            cluster=cluster,
            deployment=seen.target.deployment,
            mode=Mode.RECOMMEND if paused else settings.mode,
            fence=fence,
            decided_on=before,
            now=now,
            running_by_worker=None if seen.ledger is None else seen.ledger.running_by_pod,
            dry_run=settings.dry_run,
        ),
    )


def _store(
    settings: ScalerSettings,
    client: Any,
    token: int,
    seen: list[_Seen],
    memories: Mapping[str, QueueMemory],
    records: Mapping[str, dict[str, Any]],
    now: float,
) -> None:
    """Remember, and add to the totals, unless a newer holder already did."""
    stored = save_tick(
        client,
        token,
        memories={queue: dump_memory(memory) for queue, memory in memories.items()},
        decisions={queue: json.dumps(record) for queue, record in records.items()},
        prefix=settings.prefix,
    )
    if not stored:
        logger.warning("scaler lost its lock", extra={"action": "scaler.fenced"})
        return
    seconds: dict[str, float] = {}
    for one in seen:
        last = one.memory.ticked_at
        if one.signals.replicas is not None and last is not None:
            elapsed = min(max(0.0, now - last), LONGEST_TICK_SECONDS)
            seconds[one.target.queue] = one.signals.replicas.desired * elapsed
    count_tick(
        client,
        actions=[
            (queue, record["direction"], record["reason"])
            for queue, record in records.items()
            if record["applied"]
        ],
        replica_seconds=seconds,
        cost={
            one.target.queue: seconds[one.target.queue]
            / 3600.0
            * one.target.knobs.cost_per_replica_hour
            for one in seen
            if one.target.queue in seconds
        },
        prefix=settings.prefix,
    )
