"""What granian serves."""

from __future__ import annotations

from app.api import create_app
from config.logs import configure_logging
from config.settings import settings

configure_logging(settings())
app = create_app(settings())
