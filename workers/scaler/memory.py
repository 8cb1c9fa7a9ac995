"""What the live scaler carries from tick to tick of a queue, to and from JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from workers.scaler.decide import Memory
from workers.scaler.forecast import Prior
from workers.scaler.signals import LedgerSignals
from workers.scaler.track import Issued, Outcome, Track

VERSION = 1
SERVICE_WINDOW_JOBS = 500.0


@dataclass(frozen=True, slots=True)
class ServiceTimes:
    """Slot-seconds per job and per unit of work, averaged over about the last 500 jobs."""

    seconds_per_job: float
    seconds_per_unit: float
    jobs: float = 0.0  # how many jobs the averages stand for
    busy_seen: float = 0.0  # totals of the ledger at the last look
    finished_seen: int = 0
    tokens_seen: int = 0


@dataclass(frozen=True, slots=True)
class QueueMemory:
    """The memory of one queue."""

    decisions: Memory
    service: ServiceTimes
    prior: Prior | None = None
    refitted_at: float = 0.0  # unix seconds of the last attempt
    history_started: float | None = None  # unix seconds of the first arrival that is known
    ticked_at: float | None = None


def update_service(
    service: ServiceTimes, ledger: LedgerSignals, *, per_tokens: bool
) -> ServiceTimes:
    """Take in the jobs that finished since the last look; totals that shrank were reset."""
    jobs = ledger.finished_total - service.finished_seen
    busy = ledger.busy_seconds_total - service.busy_seen
    tokens = ledger.finished_tokens_total - service.tokens_seen
    seen = replace(
        service,
        busy_seen=ledger.busy_seconds_total,
        finished_seen=ledger.finished_total,
        tokens_seen=ledger.finished_tokens_total,
    )
    if jobs <= 0 or busy <= 0.0:
        return seen
    old = min(service.jobs, SERVICE_WINDOW_JOBS)
    share = jobs / (old + jobs)
    per_job = service.seconds_per_job + share * (busy / jobs - service.seconds_per_job)
    per_unit = per_job
    if per_tokens:
        per_unit = service.seconds_per_unit
        if tokens > 0:
            per_unit += share * (busy / tokens - per_unit)
    return replace(seen, seconds_per_job=per_job, seconds_per_unit=per_unit, jobs=old + jobs)


def dump_memory(memory: QueueMemory) -> str:
    """The memory as a JSON text."""
    return json.dumps({"version": VERSION, **asdict(memory)}, allow_nan=False)


def parse_memory(text: str) -> QueueMemory | None:
    """The memory from its JSON text; None if it is of another version or damaged.

    A lost memory costs a few hours of learning, so that it is never worth a failed tick.
    """
    try:
        fields = json.loads(text)
        if fields.pop("version") != VERSION:
            return None
        return QueueMemory(
            **{
                **fields,
                "decisions": _decisions(fields["decisions"]),
                "service": ServiceTimes(**fields["service"]),
                "prior": None if fields["prior"] is None else Prior.from_fields(fields["prior"]),
            }
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _decisions(fields: dict[str, Any]) -> Memory:
    track = fields["track"]
    return Memory(
        **{
            **fields,
            "needs": tuple((moment, need) for moment, need in fields["needs"]),
            "track": Track(
                **{
                    **track,
                    "issued": tuple(Issued(**entry) for entry in track["issued"]),
                    "outcomes": tuple(Outcome(**entry) for entry in track["outcomes"]),
                }
            ),
        }
    )
