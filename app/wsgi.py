"""What granian serves."""

from __future__ import annotations

from app.api import create_app
from config.logs import configure_logging
from config.settings import settings
from tasks.prices import load_prices

configure_logging(settings())
app = create_app(settings())
load_prices(settings().models_file)  # now, not in the first request
