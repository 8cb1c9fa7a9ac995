"""The real stack for tests, fault storms and benchmarks: Redis, a provider that speaks the wire
format, API, workers, system worker and beat, each a process of its own that can be killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import redis
import requests

from app.cli.tokens import mint
from app.stack.embedded import free_port, redis_command
from app.stack.processes import (
    api_command,
    beat_command,
    scaler_command,
    system_command,
    webhooks_command,
    worker_command,
)
from config.settings import Settings
from tasks.ledger import Ledger
from tasks.redis_client import connect

ROOT = Path(__file__).parent.parent
SECRET = "a-secret-that-only-the-tests-sign-with"
START_SECONDS = 60


def eventually(true: Callable[[], bool], *, seconds: float, what: str, every: float = 0.05) -> None:
    """Wait until `true`; AssertionError that names `what` when it does not come."""
    end = time.monotonic() + seconds
    pause = threading.Event()
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        pause.wait(every)


@dataclass
class RealStack:
    """Processes by name, and how to reach them."""

    folder: Path
    overrides: dict[str, str] = field(default_factory=dict)
    workers: int = 1
    python_path: str = ""

    def __post_init__(self) -> None:
        ports = (free_port() for _ in range(4))
        self.redis_port, self.cache_port, self.api_port, self.provider_port = ports
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.endswith(("_API_KEY", "_BASE_URL"))},
            "REDIS_URL": f"redis://127.0.0.1:{self.redis_port}/0",
            "JWT_SECRET_KEY": SECRET,
            "API_PORT": str(self.api_port),
            "LOCAL_BASE_URL": f"http://127.0.0.1:{self.provider_port}/v1",
            "RATE_LIMIT_REQUESTS": "1000000",
            "LOG_FORMAT": "json",
            "HF_HUB_OFFLINE": "1",
            "PROMETHEUS_PORT": "0",
            "REDIS_TIMEOUT_SECONDS": "3",  # a busy machine is slow; tests of the timeout set it
            "DATABASE_URL": f"sqlite:///{self.folder}/inferenceflow.db",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), self.python_path])),
            **self.overrides,
        }
        self.url = f"http://127.0.0.1:{self.api_port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.settings = Settings(
            _env_file=None,  # type: ignore[call-arg]
            **{
                name: self.env[name.upper()]
                for name in Settings.model_fields
                if name.upper() in self.env
            },
        )
        self.redis = connect(self.settings.broker_url, timeout=5)
        self.ledger = Ledger(self.redis, self.settings.key_prefix)

    def token(self, user: str = "ann", tenant: str = "acme", role: str = "user") -> str:
        return mint(self.settings, user=user, tenant=tenant, role=role, expires=timedelta(hours=1))

    def session(self, **who: str) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {self.token(**who)}"
        session.mount(
            "http://", requests.adapters.HTTPAdapter(pool_connections=64, pool_maxsize=64)
        )
        return session

    def spawn(self, name: str, command: list[str], **env: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{name}.log").open("ab")
        with log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**self.env, **env},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.processes[name] = process
        return process

    def start_redis(self) -> None:
        data = self.folder / "redis"
        data.mkdir(exist_ok=True)
        self.spawn("redis", redis_command(self.redis_port, data))

        def up() -> bool:
            with contextlib.suppress(redis.RedisError):
                return bool(self.redis.ping())
            return False

        eventually(up, seconds=START_SECONDS, what="Redis up")

    def start_cache_redis(self) -> None:
        """A Redis for the cache alone; give CACHE_REDIS_URL=cache_url to use it."""
        data = self.folder / "cache"
        data.mkdir(exist_ok=True)
        self.spawn("cache", redis_command(self.cache_port, data))
        client = connect(self.cache_url)

        def up() -> bool:
            with contextlib.suppress(redis.RedisError):
                return bool(client.ping())
            return False

        eventually(up, seconds=START_SECONDS, what="the cache's Redis up")
        client.close()

    @property
    def cache_url(self) -> str:
        return f"redis://127.0.0.1:{self.cache_port}/0"

    def start_provider(self, *arguments: str) -> None:
        self.spawn(
            "provider",
            [sys.executable, "-m", "tests.fakes.provider", "--port", str(self.provider_port)]
            + list(arguments),
        )
        self._answering(f"http://127.0.0.1:{self.provider_port}/_count")

    def start_api(self, name: str = "api") -> None:
        self.spawn(name, api_command())
        self._answering(f"{self.url}/v1/health/ready")

    def start_worker(self, name: str, *, wait: bool = True) -> None:
        self._start_celery(name, worker_command(self.settings, name), wait)

    def start_system(self, *, wait: bool = True) -> None:
        self._start_celery("system", system_command(self.settings), wait)

    def start_webhooks(self, *, wait: bool = True) -> None:
        self._start_celery("webhooks", webhooks_command(self.settings), wait)

    def start_scaler(self, *, wait: bool = True) -> None:
        self._start_celery("scaler", scaler_command(self.settings), wait)

    def start_beat(self) -> None:
        self.spawn("beat", beat_command())

    def _start_celery(self, name: str, command: list[str], wait: bool) -> None:
        heart = self.folder / f"{name}.heart"
        heart.unlink(missing_ok=True)
        process = self.spawn(name, command, HEARTBEAT_FILE=str(heart))
        if wait:
            eventually(
                lambda: heart.exists() or process.poll() is not None,
                seconds=START_SECONDS,
                what=f"{name} ready",
            )
            assert process.poll() is None, self.log(name)

    def start(self, *provider_arguments: str) -> None:
        self.start_redis()
        self.start_provider(*provider_arguments)
        self.start_api()
        for number in range(self.workers):
            self.start_worker(f"worker{number + 1}", wait=False)
        self.start_system()
        self.start_beat()
        for number in range(self.workers):
            heart = self.folder / f"worker{number + 1}.heart"
            eventually(heart.exists, seconds=START_SECONDS, what="workers ready")

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal a process and all its children; wait for it if it dies of it."""
        process = self.processes[name]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        if number is signal.SIGKILL:
            process.wait()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def provider_calls(self) -> dict[str, Any]:
        counted: dict[str, Any] = requests.get(
            f"http://127.0.0.1:{self.provider_port}/_count", timeout=5
        ).json()
        return counted

    def stop(self) -> None:
        for name, process in reversed(self.processes.items()):
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGCONT)
                    if name != "redis":
                        process.terminate()
        end = time.monotonic() + 10
        for name, process in self.processes.items():
            if name == "redis":
                continue
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.kill(name)
        if "redis" in self.processes:
            self.kill("redis")
        self.redis.close()

    def _answering(self, url: str) -> None:
        def up() -> bool:
            with contextlib.suppress(requests.RequestException):
                return requests.get(url, timeout=1).ok
            return False

        eventually(up, seconds=START_SECONDS, what=f"an answer from {url}")


@contextlib.contextmanager
def real_stack(
    folder: Path, *provider_arguments: str, workers: int = 1, **overrides: str
) -> Iterator[RealStack]:
    """The whole stack, stopped at the end."""
    stack = RealStack(folder, overrides, workers)
    try:
        stack.start(*provider_arguments)
        yield stack
    finally:
        stack.stop()
