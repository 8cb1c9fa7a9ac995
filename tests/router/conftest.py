"""A Redis and providers of the router's own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
import redis

from tests.redis_server import redis_server
from workers.redis_client import quick_redis


@pytest.fixture(scope="session")
def router_redis_url() -> Iterator[str]:
    with redis_server() as (url, _):
        yield url


@pytest.fixture
def router_redis(router_redis_url: str) -> Iterator[redis.Redis]:
    with quick_redis(router_redis_url, 5) as client:
        yield client


@pytest.fixture
def router_prefix() -> str:
    return f"test:{uuid.uuid4().hex}:"
