"""Putting the lines of a batch into the queue, slice by slice."""

from __future__ import annotations

import logging
import time

from celery import group

from tasks.batches import Batch, BatchState, Expansion, PreparedLine, UnknownBatchError
from tasks.cache_hit import CacheHit, cached_response
from tasks.inference import InferenceRequest
from workers.context import WorkerContext, context

logger = logging.getLogger(__name__)


COLD = "cold"  # Redis does not know the tenant's account yet


def publish_slices(current: WorkerContext, batch_id: str) -> None:
    """Publish as many slices as the tenant's open jobs leave room for, as one Celery group."""
    from tasks.signatures import expand_batch_slice

    slices = current.batches.take_slices(
        batch_id,
        open_lines=current.settings.batch_open_lines,
        slice_lines=current.settings.batch_slice_lines,
    )
    if slices:
        group(expand_batch_slice.s(batch_id, number) for number in slices).apply_async()


def expand_slice(batch_id: str, number: int) -> None:
    """Make jobs of the lines of one slice. Running it again changes nothing."""
    current = context()
    try:
        batch = current.batches.read(batch_id, None)
    except UnknownBatchError:
        return
    if batch.state is not BatchState.IN_PROGRESS:
        return
    stored = current.files.get(batch.lines_file, batch.tenant)
    start = batch.slices[number]
    end = batch.slices[number + 1] if number + 1 < len(batch.slices) else stored.size
    with current.files.open(stored, offset=start) as stream:
        lines = [PreparedLine.load(line) for line in stream.read(end - start).splitlines()]
    answers = _answers(current, batch, lines)
    done = _expand(current, batch_id, number, answers)
    if done is not None and done.waits == COLD:
        current.accounts.load(batch.tenant)
        done = _expand(current, batch_id, number, answers)
    if done is not None:
        logger.info(
            "slice waits" if done.waits else "slice expanded",
            extra={
                "action": "batch_slice",
                "batch_id": batch_id,
                "slice": number,
                "jobs": done.made,
                "joined": done.joined,
                "waits": done.waits,
            },
        )
        if not done.waits:
            publish_slices(current, batch_id)  # what was answered at once left its room


def _answers(
    current: WorkerContext, batch: Batch, lines: list[PreparedLine]
) -> list[tuple[PreparedLine, bytes | None]]:
    """Each line with the answer that the cache has for exactly its request; one round trip.

    A worker looks for the rest by meaning when the line's turn comes: by then an equal question of
    the same batch may have been answered.
    """
    started = time.monotonic()
    pool = current.cache.rules.pool(batch.tenant)
    lookups = [
        current.cache.read(InferenceRequest.from_stored(line.request.encode()), pool=pool)
        for line in lines
    ]
    hits = current.cache.repeats(lookups)
    seconds = (time.monotonic() - started) / max(len(lines), 1)
    return [
        (line, None if hit is None else _dump(hit, line, batch, seconds))
        for line, hit in zip(lines, hits, strict=True)
    ]


def _dump(hit: CacheHit, line: PreparedLine, batch: Batch, seconds: float) -> bytes:
    response = cached_response(
        hit, latency=seconds, request_id=batch.request_id, metadata=line.metadata
    )
    return response.model_dump_json().encode()


def _expand(
    current: WorkerContext,
    batch_id: str,
    number: int,
    lines: list[tuple[PreparedLine, bytes | None]],
) -> Expansion | None:
    return current.batches.expand(
        batch_id,
        number,
        lines,
        retention_seconds=current.settings.job_retention_seconds,
        max_attempts=current.settings.max_attempts,
    )
