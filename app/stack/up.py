"""`inferenceflow up`: the whole product on one machine."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import redis
import requests
from rich.console import Console
from rich.markup import escape

from app.stack import embedded
from app.stack.embedded import StackError
from app.stack.exporter import exporter_command, exporter_env, exporter_python
from app.stack.processes import (
    api_command,
    beat_command,
    flower_command,
    scaler_command,
    system_command,
    webhooks_command,
    worker_command,
)
from app.stack.supervisor import Child, Supervisor
from config.settings import BadSettingsError, Settings, load_settings
from tasks.accounts import now_ms
from tasks.database import Database, DatabaseDownError
from tasks.models import Tenant
from tasks.redis_client import connect
from tasks.schema import upgrade

DEMO_TENANT = "demo"


@dataclass(frozen=True)
class StackOptions:
    """What `up` was asked for."""

    data: Path = Path("var")
    port: int = 8000
    redis_port: int = 6399
    model_port: int = 8089
    flower_port: int = 5555
    exporter_port: int = 9808
    workers: int = 1
    local_model: bool = True
    exporter: bool = False
    quiet: bool = False


def stack_file(data: Path) -> Path:
    """Where a running stack says how it is reached, for the client commands."""
    return data / "stack.json"


class Stack:
    """The children, and how they are reached."""

    def __init__(self, options: StackOptions, console: Console) -> None:
        self.options = options
        self.url = f"http://127.0.0.1:{options.port}"
        self._console = console
        self._supervisor = Supervisor(console, quiet=options.quiet)
        self._beats = options.data / "beats"
        self._metrics_ports = 0  # given to workers so far
        self.settings = self._prepare()

    def _prepare(self) -> Settings:
        """Settings for all children. Raises StackError before anything is started."""
        data = self.options.data
        embedded.require_space(data, embedded.FREE_BYTES)
        self._beats.mkdir(exist_ok=True)
        use_kept_secret(data, make=True)
        os.environ["API_PORT"] = str(self.options.port)
        _default("DATABASE_URL", f"sqlite:///{data.resolve()}/inferenceflow.db")
        _default("LOG_FORMAT", "console")
        if self._own_redis:
            os.environ["REDIS_PORT"] = str(self.options.redis_port)
        if self.options.local_model:
            _default("LOCAL_BASE_URL", f"http://127.0.0.1:{self.options.model_port}/v1")
        try:
            return load_settings()
        except BadSettingsError as error:
            raise StackError(f"bad setting: {error}") from None

    @property
    def _own_redis(self) -> bool:
        return not os.environ.get("REDIS_URL")

    def start(self) -> None:
        """Start all children in order. Raises StackError."""
        options = self.options
        embedded.require_port(options.port, "the API", "--port")
        embedded.require_port(options.flower_port, "Flower", "--flower-port")
        if options.exporter:
            embedded.require_port(options.exporter_port, "celery-exporter", "--exporter-port")
        start = self._supervisor.start
        if self._own_redis:
            embedded.require_port(options.redis_port, "Redis", "--redis-port")
            folder = options.data / "redis"
            folder.mkdir(exist_ok=True)
            secret = self.settings.redis_password
            command = embedded.redis_command(
                options.redis_port, folder, password=secret.get_secret_value() if secret else ""
            )
            start(Child("redis", command, self._redis_up))
        elif not self._redis_up():
            raise StackError("REDIS_URL is set, but nothing answers there")
        if options.local_model:
            embedded.require_port(options.model_port, "the local model", "--model-port")
            weights = embedded.model_file(options.data)
            start(
                Child(
                    "model",
                    embedded.model_command(options.model_port, weights),
                    lambda: _answers(f"http://127.0.0.1:{options.model_port}/v1/models"),
                    ready_seconds=120,
                )
            )
        self._prepare_database()
        start(Child("api", api_command(), lambda: _answers(f"{self.url}/v1/health/ready")))
        self._start_worker("system", system_command(self.settings))
        for number in range(options.workers):
            name = f"worker{number + 1}"
            self._start_worker(name, worker_command(self.settings, name))
        self._start_worker("webhooks", webhooks_command(self.settings))
        if self.settings.scaler_interval:
            self._start_worker("scaler", scaler_command(self.settings))
        start(Child("beat", beat_command(), self._heart("beat"), self._heart_env("beat")))
        start(
            Child(
                "flower",
                flower_command(options.flower_port),
                lambda: _answers(f"http://127.0.0.1:{options.flower_port}/healthcheck"),
                {"FLOWER_BASIC_AUTH": f"admin:{self.flower_password}"},
            )
        )
        if options.exporter:
            self._start_exporter()

    def _start_exporter(self) -> None:
        """Start celery-exporter, or say why there is none: everything else goes on without it."""
        port = self.options.exporter_port
        try:
            env = exporter_env(self.settings, port)
            python = exporter_python(self.options.data / "celery-exporter")
        except StackError as error:
            self._console.print(f"[bold yellow]{escape(str(error))}; going on without it[/]")
            return
        self._supervisor.start(
            Child(
                "exporter",
                exporter_command(python),
                lambda: _answers(f"http://127.0.0.1:{port}/health"),
                env,
                restart=True,
            )
        )

    def _prepare_database(self) -> None:
        database = Database(self.settings.database_url)
        try:
            upgrade(database)
            with database.session() as session:
                if session.get(Tenant, DEMO_TENANT) is None:
                    session.add(
                        Tenant(name=DEMO_TENANT, title="", disabled=False, created_at=now_ms())
                    )
        except DatabaseDownError as error:
            raise StackError(f"DATABASE_URL: {error}") from None
        finally:
            database.close()

    @property
    def flower_password(self) -> str:
        """The password of Flower's user `admin`."""
        return _kept_secret(self.options.data / "flower_password", make=True) or ""

    def _start_worker(self, name: str, command: list[str]) -> None:
        first = self.settings.prometheus_port
        env = {
            **self._heart_env(name),
            "PROMETHEUS_PORT": str(first + self._metrics_ports if first else 0),
        }
        self._metrics_ports += 1
        self._supervisor.start(Child(name, command, self._heart(name), env, restart=True))

    def _heart_env(self, name: str) -> dict[str, str]:
        path = self._beats / name
        path.unlink(missing_ok=True)
        return {"HEARTBEAT_FILE": str(path.resolve())}

    def _heart(self, name: str) -> Callable[[], bool]:
        return (self._beats / name).exists

    def announce(self, token: str) -> None:
        """Leave word for the client commands."""
        path = stack_file(self.options.data)
        path.touch(mode=0o600)
        path.write_text(json.dumps({"url": self.url, "token": token}))

    def watch(self) -> None:
        """Stay until stopped. Raises StackError when a child dies for good."""
        self._supervisor.watch()

    def request_stop(self) -> None:
        """End `watch`."""
        self._supervisor.request_stop()

    def stop(self) -> None:
        """Stop all children."""
        stack_file(self.options.data).unlink(missing_ok=True)
        self._supervisor.stop()

    def _redis_up(self) -> bool:
        with suppress(redis.RedisError):
            return bool(connect(self.settings.broker_url).ping())
        return False


def _answers(url: str) -> bool:
    with suppress(requests.RequestException):
        return requests.get(url, timeout=1).ok
    return False


def use_kept_secret(data: Path, *, make: bool = False) -> None:
    """Sign with the key that the stack keeps, unless JWT_SECRET_KEY is set.

    `make`: write one if there is none, readable by its owner alone.
    """
    secret = _kept_secret(data / "jwt_secret", make=make)
    if secret is not None:
        _default("JWT_SECRET_KEY", secret)


def _default(name: str, value: str) -> None:
    """Set what is not set; what is empty counts as not set, as it does in Settings."""
    if not os.environ.get(name):
        os.environ[name] = value


def _kept_secret(path: Path, *, make: bool) -> str | None:
    if make and not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
    return path.read_text().strip() if path.exists() else None
