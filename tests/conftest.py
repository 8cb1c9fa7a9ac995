"""A real Redis with RediSearch for each test session, and a key prefix for each test."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

# Before anything reads the settings: tests never see the environment of whoever runs them.
for _name in list(os.environ):
    if _name.endswith(("_API_KEY", "_BASE_URL")) or _name.startswith(("REDIS_", "RATE_LIMIT_")):
        del os.environ[_name]
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["JWT_SECRET_KEY"] = "a-secret-that-only-the-tests-sign-with"
os.environ["LOG_FORMAT"] = "json"
_database_folder = tempfile.TemporaryDirectory()
os.environ["DATABASE_URL"] = f"sqlite:///{_database_folder.name}/tests.db"

from app.stack.embedded import free_port, redis_command
from config.settings import settings
from tasks.ledger import Ledger
from tasks.redis_client import connect


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow ones first: at the end of a run the quick ones fill whichever process is free."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def wait_for_redis(url: str, seconds: float = 20) -> None:
    """Return when the server answers and has loaded its data."""
    end = time.monotonic() + seconds
    client = redis.Redis.from_url(url, socket_timeout=1)
    while True:
        try:
            client.ping()
            client.close()
            return
        except redis.RedisError:
            if time.monotonic() > end:
                raise
            threading_pause(0.05)


def threading_pause(seconds: float) -> None:
    """Give another process time; only inside loops that wait for a condition."""
    import threading

    threading.Event().wait(seconds)


@contextlib.contextmanager
def running_redis(folder: Path, *extra: str, port: int | None = None) -> Iterator[str]:
    """A Redis server of its own; its URL."""
    port = port or free_port()
    process = subprocess.Popen(
        [*redis_command(port, folder), *extra], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    url = f"redis://127.0.0.1:{port}/0"
    try:
        wait_for_redis(url)
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder, running_redis(Path(folder)) as url:
        os.environ["REDIS_URL"] = url
        settings.cache_clear()
        yield url


@pytest.fixture(scope="session")
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    client = connect(redis_url, timeout=5)
    yield client
    client.close()
    client.connection_pool.disconnect()


@pytest.fixture
def prefix() -> str:
    return f"test:{secrets.token_hex(6)}:"


@pytest.fixture
def ledger(redis_client: redis.Redis, prefix: str) -> Ledger:
    return Ledger(redis_client, prefix)
