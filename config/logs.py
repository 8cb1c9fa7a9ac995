"""Structured logs: one JSON object a line, or a readable line on a terminal.

Messages are constant; what varies goes into `extra`, with an `action`. The request id, the
job id and the tenant of the work at hand come from `log_context`, on every line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import orjson

from config.settings import Settings

_context: ContextVar[dict[str, str] | None] = ContextVar("log_context", default=None)

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "data"}
# What Celery adds to its own records: arguments and results stay out of the logs.
_DROPPED = frozenset({"args", "kwargs", "return_value", "result", "description", "internal"})


@contextmanager
def log_context(**fields: str) -> Iterator[None]:
    """Put `fields` (request_id, job_id, tenant) on every log line inside the block."""
    token = _context.set({**(_context.get() or {}), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def current_context() -> dict[str, str]:
    """The fields of the enclosing `log_context` blocks."""
    return dict(_context.get() or {})


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {
        key: value
        for key, value in record.__dict__.items()
        if key not in _STANDARD and key not in _DROPPED and not key.startswith("_")
    }


class JSONFormatter(logging.Formatter):
    """One JSON object a line; newlines inside values are escaped, so a line is one record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **(_context.get() or {}),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class ConsoleFormatter(logging.Formatter):
    """`time level logger message key=value ...` for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one readable line."""
        fields = {**(_context.get() or {}), **_extra(record)}
        pairs = "".join(f" {key}={value!r}" for key, value in fields.items())
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        line = f"{time} {record.levelname:<7} {record.name}: {record.getMessage()}{pairs}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure_logging(settings: Settings) -> None:
    """Send every logger of this process to stderr in the chosen form."""
    console = settings.log_format == "console" or (
        settings.log_format == "auto" and sys.stderr.isatty()
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ConsoleFormatter() if console else JSONFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    # One line a task says nothing that the job's own lines do not.
    for name in (
        "celery.worker.strategy",
        "celery.app.trace",
        "celery.beat",
        "httpx",
        "redisvl",
        "urllib3",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
