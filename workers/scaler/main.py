"""What the scaler's process starts with: `celery -A workers.scaler.main worker`.

Its numbers are in Redis and served by the API, so it has no metrics of its own.
"""

from __future__ import annotations

import workers.heartbeat  # noqa: F401 - connects itself
from tasks.celery_app import celery_app

__all__ = ["celery_app"]
