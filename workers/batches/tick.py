"""What batches need from time to time: more slices, an end when the time is up, lost callbacks."""

from __future__ import annotations

import logging

from tasks.batches import BatchState
from workers.batches.slices import publish_slices
from workers.context import WorkerContext, context

logger = logging.getLogger(__name__)

STOP_STEPS = 10  # of one batch in one tick: the others get their turn


def tick() -> None:
    """One look at every open batch. Safe to run twice at the same time."""
    current = context()
    for batch_id, state, seconds_left in current.batches.open_batches():
        if state is BatchState.FINALIZING:
            _call_back(current, batch_id)
        elif state is BatchState.CANCELLING or seconds_left <= 0:
            _stop(current, batch_id)
        else:
            publish_slices(current, batch_id)


def _stop(current: WorkerContext, batch_id: str) -> None:
    for _ in range(STOP_STEPS):
        if current.batches.stop_step(batch_id, "", BatchState.EXPIRED) != "more":
            return


def _call_back(current: WorkerContext, batch_id: str) -> None:
    """Send the completion callback again if nobody is at it."""
    from tasks.signatures import close_batch

    if not current.redis.exists(current.batches.key("batch", batch_id, "closing")):
        close_batch.apply_async(task_id=batch_id)


def purge_files() -> None:
    """Delete files whose time is over."""
    current = context()
    while purged := current.files.purge_expired():
        logger.info("files purged", extra={"action": "files_purged", "files": purged})
