"""What a webhook process starts with: `celery -A workers.webhooks.main worker`."""

from __future__ import annotations

import workers.heartbeat  # noqa: F401 - connects itself
from tasks.celery_app import celery_app

__all__ = ["celery_app"]
