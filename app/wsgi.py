"""What granian serves."""

from __future__ import annotations

from app.api import create_app
from app.leaving import when_leaving
from app.services import Services
from config.logs import configure_logging
from config.settings import settings

configure_logging(settings())
app = create_app(settings())
_services: Services = app.extensions["inferenceflow"]
when_leaving(_services.hub.stop)
