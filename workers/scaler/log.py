"""The decision log: one record per tick and queue, in one form for every reader."""

from __future__ import annotations

import logging
from typing import Any

from workers.scaler.decide import Decision
from workers.scaler.knobs import Mode, QueueKnobs
from workers.scaler.kubernetes import ScaleResult

logger = logging.getLogger(__name__)


def decision_record(
    decision: Decision, *, mode: Mode, knobs: QueueKnobs, paused: bool, result: ScaleResult | None
) -> dict[str, Any]:
    """Inputs, terms, clamps, before and after of one decision, as plain JSON values.

    Rates are in units of work per second, times in seconds, `at` in unix seconds.
    """
    signals, capacity, outlook = decision.signals, decision.capacity, decision.outlook
    track, replicas = decision.track, signals.replicas
    return {
        "at": signals.at,
        "queue": signals.queue,
        "mode": mode.value,
        "paused": paused,
        "level": decision.trust.level.value,
        "level_reason": decision.trust.reason,
        "signals": {
            "depth": signals.depth,
            "running": signals.running,
            "oldest_age": signals.oldest_age,
            "seconds_per_job": round(signals.seconds_per_job, 4),
            "seconds_per_unit": round(signals.seconds_per_unit, 6),
            "started_total": signals.started_total,
            "late_total": signals.late_total,
        },
        "replicas": None
        if replicas is None
        else {
            "desired": replicas.desired,
            "ready": replicas.ready,
            "pending": replicas.pending,
            "stuck": replicas.stuck,
        },
        "forecast": None
        if outlook is None
        else {
            "horizon": outlook.horizon,
            "actual": round(outlook.current, 4),
            "p50": round(outlook.p50, 4),
            "upper": round(outlook.upper, 4),
            "quantile": knobs.quantile,
            "nowcast": round(outlook.nowcast, 4),
            "seasonal": None if outlook.seasonal is None else round(outlook.seasonal, 4),
        },
        "skill": {
            "nowcast_loss": track.nowcast_loss,
            "seasonal_loss": track.seasonal_loss,
            "coverage": track.coverage,
            "bins": len(track.outcomes),
        },
        "terms": None
        if capacity is None
        else {
            "staffing": capacity.staffing,
            "backlog": capacity.backlog,
            "drain": capacity.drain,
            "forecast": capacity.forecast,
        },
        "gone_since": decision.gone_since,
        "binding": None if capacity is None else capacity.binding,
        "required": None if capacity is None else capacity.required,
        "beta": round(decision.beta, 4),
        "clamps": list(decision.clamps),
        "before": decision.before,
        "after": decision.target,
        "direction": decision.direction,
        "reason": decision.reason,
        "applied": result is not None and result.applied,
        "result": None if result is None else result.detail,
        "via": None if result is None else result.via,
    }


def log_decision(record: dict[str, Any]) -> None:
    """One line per decision; the application's formatter makes it JSON."""
    logger.info("scaler decided", extra={"action": "scaler.decided", **record})


def event_message(record: dict[str, Any]) -> str:
    """The decision in one sentence, for a Kubernetes Event."""
    return (
        f"{record['before']} -> {record['after']} replicas for queue {record['queue']}: "
        f"{record['reason']} (level {record['level']}: {record['level_reason']}; "
        f"{record['result']})"
    )
