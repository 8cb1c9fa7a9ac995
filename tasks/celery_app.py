"""The Celery app that API, workers and beat share."""

from __future__ import annotations

from celery import Celery
from celery.signals import setup_logging

from config.celery import celery_config
from config.logs import configure_logging
from config.settings import settings

celery_app = Celery("inferenceflow", set_as_current=True)
celery_app.add_defaults(lambda: celery_config(settings()))


@setup_logging.connect
def _setup_logging(**_: object) -> None:
    """Keep Celery's hands off the loggers."""
    configure_logging(settings())
