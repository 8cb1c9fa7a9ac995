"""The reconciler: what makes up for everything that was lost on the way."""

from __future__ import annotations

import logging
from dataclasses import asdict

from workers.context import context

logger = logging.getLogger(__name__)

JOBS_PER_STEP = 1000  # about 20 ms of Redis time
STEPS_PER_TICK = 5


def sweep_once() -> None:
    """Look at what is due, in bounded steps. Safe to run twice at the same time."""
    current = context()
    for _ in range(STEPS_PER_TICK):
        swept = current.ledger.sweep(
            most=JOBS_PER_STEP, age_low_seconds=current.settings.age_low_seconds
        )
        if any(asdict(swept).values()):
            logger.info("swept", extra={"action": "sweep", **asdict(swept)})
        if swept.looked < JOBS_PER_STEP:
            return
