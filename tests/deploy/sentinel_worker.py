"""A Celery app whose workers claim jobs through Sentinels and end them at once.

`celery -A tests.deploy.sentinel_worker worker`: the configuration, the messages and the ledger are
the product's; only the provider call between claim and finish is left out.
"""

from __future__ import annotations

from config.settings import settings
from tasks.celery_app import celery_app
from tasks.inference import Priority
from tasks.jobs import JobState
from tasks.ledger import Ledger
from tasks.messages import RUN_TASK
from tasks.redis_client import connect

celery_app.conf.imports = []

LEASE_SECONDS = 5


@celery_app.task(name=RUN_TASK, bind=True)
def run(self) -> None:  # type: ignore[no-untyped-def]
    """Claim the lane's next job and end it."""
    client = connect(settings().broker_url, timeout=2)
    ledger = Ledger(client, settings().key_prefix)
    lane = Priority(self.request.delivery_info["routing_key"].removeprefix("inference."))
    try:
        job = ledger.claim(lane, "test", LEASE_SECONDS)
        if job is not None:
            ledger.finish(job, JobState.SUCCEEDED, result=b'"done"')
    finally:
        client.close()
        client.connection_pool.disconnect()
