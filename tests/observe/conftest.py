from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
import redis
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from app.api import create_app
from app.identity import mint_token
from config.settings import Settings
from tasks.ledger import Ledger
from tasks.metrics import Metrics
from tasks.recent import Recent


@dataclass(frozen=True)
class Observed:
    """One process's metrics on the session's Redis."""

    metrics: Metrics
    recent: Recent
    registry: CollectorRegistry

    def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        return read_samples(generate_latest(self.registry).decode())


def read_samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Metric values by (name, sorted labels)."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def observe_prefix(redis_client: redis.Redis) -> Iterator[str]:
    prefix = f"test:observe:{secrets.token_hex(6)}:"
    yield prefix
    for name in redis_client.scan_iter(f"{prefix}*"):
        redis_client.delete(name)


@pytest.fixture
def observed(redis_client: redis.Redis, observe_prefix: str) -> Observed:
    registry = CollectorRegistry()
    recent = Recent(redis_client, observe_prefix)
    return Observed(Metrics(recent, registry=registry, tenants=2), recent, registry)


@pytest.fixture
def observe_ledger(redis_client: redis.Redis, observe_prefix: str) -> Ledger:
    return Ledger(redis_client, observe_prefix)


@pytest.fixture
def make_client(redis_url: str, observe_prefix: str) -> Callable[..., FlaskClient]:
    """A client of an API in this process, signed in as ann of acme."""

    def make(**changes: object) -> FlaskClient:
        settings = Settings(
            _env_file=None,  # type: ignore[call-arg]
            redis_url=redis_url,
            key_prefix=observe_prefix,
            jwt_secret_key="a-secret-that-only-the-tests-sign-with",  # type: ignore[arg-type]
            **changes,  # type: ignore[arg-type]
        )
        app = create_app(settings)
        with app.app_context():
            token = mint_token(
                settings, user="ann", tenant="acme", role="user", expires=timedelta(hours=1)
            )
        client = app.test_client()
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token}"
        return client

    return make


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus' checker, of the Debian package `prometheus`."""
    found = shutil.which("promtool")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is missing: see .ci/packages")
        pytest.skip("promtool is not installed")
    return found
