"""The Celery app as Flower needs it: `celery -A app.flower flower`.

Flower reads the lengths of queues by itself, for brokers whose address has a scheme that it knows.
Our own transport (config/broker.py) would stand in the scheme's place, and is of no use to it.
"""

from __future__ import annotations

from tasks.celery_app import celery_app

celery_app.conf.broker_transport = None

__all__ = ["celery_app"]
