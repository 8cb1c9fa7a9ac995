"""Every Celery task: its name, its queue, and the worker function that it calls.

That function is imported inside the task, so that the API can know the tasks without loading
what workers need.
"""

from __future__ import annotations

from typing import Any

from celery import Task

from tasks.celery_app import celery_app
from tasks.inference import Priority
from tasks.messages import RUN_TASK


@celery_app.task(name=RUN_TASK, bind=True)
def run(self: Task) -> None:
    """Run the job that is next in the lane of the queue that the message came through."""
    from workers.runner import run_next

    run_next(Priority(self.request.delivery_info["routing_key"].removeprefix("inference.")))


@celery_app.task(name="ledger.sweep", expires=10)
def sweep() -> None:
    """One step of the reconciler."""
    from workers.reconciler import sweep_once

    sweep_once()


@celery_app.task(name="usage.write", expires=10)
def write_usage() -> None:
    """Bring the usage ledger in SQL up to date with the outbox of ended jobs."""
    from workers.usage import write_usage as write

    write()


@celery_app.task(name="control.answer")
def control(question_id: str) -> None:
    """Answer a question of the API."""
    from workers.control import answer

    answer(question_id)


BEAT_SCHEDULE: dict[str, dict[str, Any]] = {
    "sweep": {"task": "ledger.sweep", "schedule": 1.0},
    "usage": {"task": "usage.write", "schedule": 2.0},
}
celery_app.conf.beat_schedule = BEAT_SCHEDULE
