"""Our own stack for benchmarks: the real processes, on chosen cores, before the stub upstream."""

from __future__ import annotations

import itertools
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import redis
import requests

from app.stack.embedded import free_port, redis_command
from benchmarks.load import Target
from benchmarks.processes import Taken, on_cores, taken, wait_for
from tests.stack import RealStack

PROMPT = b"Note @N@: @TEXT@"
TEXT_WORDS = 24
_WORDS = sorted(
    set(
        re.findall(rb"[a-z]{4,12}", (Path(__file__).parent / "data/prompts_dev.jsonl").read_bytes())
    )
)


def different(template: bytes) -> Iterator[bytes]:
    """Bodies whose prompts neither equal nor resemble each other, so that no cache has a say."""
    draw = random.Random(1)
    stamp = f"{time.time_ns():x}"
    for number in itertools.count():
        text = b" ".join(draw.choices(_WORDS, k=TEXT_WORDS))
        body = template.replace(b"@TEXT@", text)
        yield body.replace(b"@N@", f"{stamp}-{number}".encode())


SUBMISSION = b'{"prompt": "' + PROMPT + b'", "max_tokens": 200}'


def chat(model: str) -> bytes:
    """The body of a chat completion, with `@N@` where requests differ."""
    return (
        b'{"model": "' + model.encode() + b'", "max_tokens": 200, "messages": ['
        b'{"role": "system", "content": "You are a helpful assistant."}, '
        b'{"role": "user", "content": "' + PROMPT + b'"}]}'
    )


class MeasuredStack(RealStack):
    """As the tests' stack, with no limit that a benchmark could meet."""

    def __init__(
        self, folder: Path, *, cores: str = "", redis_cores: str = "", **overrides: str
    ) -> None:
        self._cores, self._redis_cores = cores, redis_cores or cores
        limits = {
            "RATE_LIMIT_REQUESTS": "1000000000",
            "MAX_QUEUE_DEPTH": "100000000",
            "MAX_TENANT_QUEUE_DEPTH": "100000000",
            "LOG_LEVEL": "WARNING",
            "TASK_EVENTS": "false",  # nobody watches
        }
        super().__init__(folder, {**limits, **overrides})

    def spawn(self, name: str, command: list[str], **env: str) -> subprocess.Popen[bytes]:
        cores = self._redis_cores if name == "redis" else self._cores
        return super().spawn(
            name, command if name == "provider" else on_cores(command, cores), **env
        )

    def start_upstream(self, latency: float = 0.05) -> None:
        """The stub, in place of a provider."""
        command = [sys.executable, "-m", "benchmarks.upstream", "--latency", str(latency)]
        self.spawn("provider", [*command, "--port", str(self.provider_port)])
        self._answering(f"http://127.0.0.1:{self.provider_port}/_count")

    def target(self, path: str) -> Target:
        """A path of our API, with a token."""
        return Target(self.url + path, {"Authorization": f"Bearer {self.token()}"})

    def taken(self, *names: str) -> Taken:
        """What the named processes have used."""
        return taken(self.processes[name].pid for name in names)


class NaiveStack:
    """The reference with a Redis of its own."""

    def __init__(
        self,
        folder: Path,
        *,
        cores: str = "",
        redis_cores: str = "",
        threads: int = 64,
        upstream: str = "",
    ) -> None:
        self._folder, self._cores, self._threads = folder, cores, threads
        self._redis_cores, self._upstream = redis_cores or cores, upstream
        self.redis_port, self.port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.redis = redis.Redis(port=self.redis_port)

    def start(self) -> None:
        """Redis with the same options as ours, then the app."""
        data = self._folder / "naive-redis"
        data.mkdir()
        self._spawn("redis", redis_command(self.redis_port, data))
        self._spawn(
            "api",
            [sys.executable, "-m", "benchmarks.naive.serve", str(self.port), str(self._threads)],
        )
        wait_for("the naive app", self._up)

    def start_worker(self) -> None:
        """One worker process, as many threads as the app has."""
        self._spawn(
            "worker",
            [
                *(sys.executable, "-m", "celery", "-A", "benchmarks.naive.app:queue", "worker"),
                *("--pool", "threads", "--concurrency", str(self._threads)),
                *("--queues", "inference.chat", "--loglevel", "WARNING"),
                *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            ],
        )

    def _up(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=1).ok
        except requests.RequestException:
            return False

    def _spawn(self, name: str, command: list[str]) -> None:
        env = {
            **os.environ,
            "REDIS_URL": f"redis://127.0.0.1:{self.redis_port}/0",
            "JWT_SECRET_KEY": "a-secret-that-only-the-tests-sign-with",
            "RATE_LIMIT_REQUESTS": "1000000000",
            "UPSTREAM_URL": self._upstream,
        }
        cores = self._redis_cores if name == "redis" else self._cores
        with (self._folder / f"naive-{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                on_cores(command, cores), env=env, stdout=log, stderr=subprocess.STDOUT
            )

    def target(self, path: str) -> Target:
        """A path of the app, with a token."""
        token = requests.get(f"{self.url}/token", timeout=5).text
        return Target(self.url + path, {"Authorization": f"Bearer {token}"})

    def taken(self, *names: str) -> Taken:
        """What the named processes have used."""
        return taken(self.processes[name].pid for name in names)

    def stop(self) -> None:
        """End them."""
        for process in reversed(self.processes.values()):
            process.terminate()
            process.wait(15)
