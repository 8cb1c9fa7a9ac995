"""Every Celery task: its name, its queue, and the worker function that it calls.

That function is imported inside the task, so that the API can know the tasks without loading
what workers need.
"""

from __future__ import annotations

from typing import Any

from celery import Task

from config.settings import Settings
from tasks.celery_app import celery_app
from tasks.inference import Priority
from tasks.messages import CLOSE_BATCH_TASK, DELIVER_TASK, RUN_TASK, SCALER_TASK


@celery_app.task(name=RUN_TASK, bind=True)
def run(self: Task) -> None:
    """Run the job that is next in the lane of the queue that the message came through."""
    from workers.runner import run_next

    run_next(Priority(self.request.delivery_info["routing_key"].removeprefix("inference.")))


@celery_app.task(name="ledger.sweep")
def sweep() -> None:
    """One step of the reconciler."""
    from workers.pacing import due
    from workers.reconciler import sweep_once

    if due("sweep"):
        sweep_once()


@celery_app.task(name="batch.expand")
def expand_batch_slice(batch_id: str, number: int) -> None:
    """Make jobs of one slice of a batch; the members of a batch's group."""
    from workers.batches.slices import expand_slice

    expand_slice(batch_id, number)


@celery_app.task(name=CLOSE_BATCH_TASK, bind=True)
def close_batch(self: Task) -> None:
    """The completion callback of the batch whose id is the task's."""
    from workers.batches.closing import close_batch as close

    close(self.request.id)


@celery_app.task(name="batch.tick")
def tick_batches() -> None:
    """Keep batches going."""
    from workers.batches.tick import tick
    from workers.pacing import due

    if due("tick_batches"):
        tick()


@celery_app.task(name="files.purge")
def purge_files() -> None:
    """Delete expired files."""
    from workers.batches.tick import purge_files as purge
    from workers.pacing import due

    if due("purge_files"):
        purge()


@celery_app.task(name=DELIVER_TASK)
def deliver_webhooks() -> None:
    """Deliver what is due, until nothing is."""
    from workers.webhooks.deliver import deliver_due

    deliver_due()


@celery_app.task(name="webhooks.tick")
def tick_webhooks() -> None:
    """Note what has happened for those who want to know, and wake the deliverers."""
    from workers.pacing import due
    from workers.webhooks.fan_out import tick

    if due("tick_webhooks"):
        tick()


@celery_app.task(name="usage.write")
def write_usage() -> None:
    """Bring the usage ledger in SQL up to date with the outbox of ended jobs."""
    from workers.pacing import due
    from workers.usage import write_usage as write

    if due("write_usage"):
        write()


@celery_app.task(name="control.answer")
def control(question_id: str) -> None:
    """Answer a question of the API."""
    from workers.control import answer

    answer(question_id)


@celery_app.task(name=SCALER_TASK)
def tick_scaler() -> None:
    """Size the workers of every queue."""
    from workers.scaler.live import tick

    tick()


BEAT_SCHEDULE: dict[str, dict[str, Any]] = {
    "sweep": {"task": "ledger.sweep", "schedule": 1.0},
    "batches": {"task": "batch.tick", "schedule": 1.0},
    "webhooks": {"task": "webhooks.tick", "schedule": 1.0},
    "files": {"task": "files.purge", "schedule": 60.0},
    "usage": {"task": "usage.write", "schedule": 2.0},
}
celery_app.conf.beat_schedule = BEAT_SCHEDULE


def beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """What beat sends in this deployment: the fixed schedule, and the scaler's tick if it is on.

    A tick that nobody took before the next one is due is dropped.
    """
    seconds = settings.scaler_interval
    if not seconds:
        return BEAT_SCHEDULE
    scaler = {"task": SCALER_TASK, "schedule": seconds, "options": {"expires": seconds}}
    return {**BEAT_SCHEDULE, "scaler": scaler}
