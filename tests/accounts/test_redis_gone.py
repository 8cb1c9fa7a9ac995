"""Redis slow or gone: a clear 503 within a second, never a hang, never an unlimited caller."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from app.cli.tokens import mint
from app.stack.embedded import free_port, redis_command
from app.stack.processes import api_command
from tests.accounts.conftest import SECRET, make_settings
from tests.conftest import wait_for_redis
from tests.freezing_proxy import FreezingProxy
from tests.stack import ROOT, eventually

WITHIN_SECONDS = 1.0  # what the documentation promises; the client gives up then


class Served:
    """An API process behind the proxy, with a Redis process of its own."""

    def __init__(self, folder: Path, proxy: FreezingProxy, redis_process: subprocess.Popen[bytes]):
        self.proxy = proxy
        self.redis = redis_process
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        database = f"sqlite:///{folder}/accounts.db"
        redis_url = f"redis://127.0.0.1:{proxy.port}/0"
        self.process = subprocess.Popen(
            api_command(),
            cwd=ROOT,
            env={
                **os.environ,
                "REDIS_URL": redis_url,
                "DATABASE_URL": database,
                "API_PORT": str(port),
                "JWT_SECRET_KEY": SECRET,
                "PYTHONPATH": str(ROOT),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        import datetime as dt

        settings = make_settings(redis_url, "if:", database)
        token = mint(
            settings, user="ann", tenant="acme", role="user", expires=dt.timedelta(hours=1)
        )
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {token}"

    def ready(self) -> int:
        with contextlib.suppress(requests.RequestException):
            return self.session.get(f"{self.url}/v1/health/ready", timeout=5).status_code
        return 0

    def submit(self) -> requests.Response:
        return self.session.post(
            f"{self.url}/v1/inference", json={"prompt": "hi"}, timeout=WITHIN_SECONDS
        )


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    port = free_port()
    data = tmp_path / "redis"
    data.mkdir()
    server = subprocess.Popen(
        redis_command(port, data), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_redis(f"redis://127.0.0.1:{port}/0")
        with FreezingProxy(port) as proxy:
            made = Served(tmp_path, proxy, server)
            try:
                eventually(lambda: made.ready() == 200, seconds=60, what="the API is ready")
                assert (
                    made.session.post(
                        f"{made.url}/v1/inference", json={"prompt": "hi"}, timeout=10
                    ).status_code
                    == 202
                )
                yield made
            finally:
                made.session.close()
                os.killpg(made.process.pid, signal.SIGKILL)
                made.process.wait()
    finally:
        server.kill()
        server.wait()


def refuses(served: Served) -> None:
    answer = served.submit()
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:inferenceflow:problem:storage-unavailable"
    assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="signals of Linux")
def test_a_frozen_connection_then_a_dead_redis(served: Served) -> None:
    served.proxy.freeze()
    for _ in range(3):
        refuses(served)
    assert served.ready() == 503
    served.proxy.thaw()
    eventually(lambda: served.ready() == 200, seconds=20, what="ready again")
    eventually(lambda: served.submit().status_code == 202, seconds=20, what="accepted again")
    served.redis.kill()
    served.redis.wait()
    for _ in range(3):
        refuses(served)
    assert served.ready() == 503
