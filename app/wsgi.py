"""What granian serves."""

from __future__ import annotations

import threading

from app.api import create_app
from config.logs import configure_logging
from config.settings import settings
from tasks.prices import load_prices

configure_logging(settings())
app = create_app(settings())
if settings().budgets_enabled:
    # Worked out before the first request asks for it, which would wait a second.
    threading.Thread(
        target=load_prices, args=(settings().models_file,), name="prices", daemon=True
    ).start()
