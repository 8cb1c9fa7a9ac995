"""A Redis and providers of the router's own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
import redis

from config.catalogue import ProviderConfig
from tasks.redis_client import connect
from tests.fakes.provider import FakeProvider
from tests.redis_server import redis_server
from tests.router.house import NAMES, House, catalogue
from workers.providers.registry import build_providers
from workers.router import BreakerPolicy, RetryPolicy, Router
from workers.router.local_state import LocalState


@pytest.fixture(scope="session")
def router_redis_url() -> Iterator[str]:
    with redis_server() as (url, _):
        yield url


@pytest.fixture
def router_redis(router_redis_url: str) -> Iterator[redis.Redis]:
    with connect(router_redis_url, timeout=5) as client:
        yield client


@pytest.fixture
def router_prefix() -> str:
    return f"test:{uuid.uuid4().hex}:"


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, FakeProvider]]:
    with FakeProvider() as one, FakeProvider() as two, FakeProvider() as three:
        yield {"one": one, "two": two, "three": three}


@pytest.fixture
def house(servers: dict[str, FakeProvider]) -> House:
    for fake in servers.values():
        fake.reset()
    book = catalogue({name: fake.url for name, fake in servers.items()})
    providers = build_providers(book, {name: ProviderConfig() for name in NAMES})
    built = House(
        servers,
        Router(
            book,
            providers,
            LocalState(BreakerPolicy()),
            policy=RetryPolicy(base_seconds=0.01, min_attempt_seconds=0.05),
            explore=0.0,
        ),
    )
    built.router.on_attempt = built.noted.append
    return built
