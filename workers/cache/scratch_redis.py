"""A Redis of one's own, so that measuring touches no running system."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from config.embedded_redis import RedisMissing, free_port, redis_server, redisearch_module


@contextmanager
def scratch_redis() -> Iterator[str]:
    """The URL of a Redis that lives as long as the block. Raises RedisMissing."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        options = f"--port {port} --bind 127.0.0.1 --appendonly no --dir {directory}"
        process = subprocess.Popen(  # noqa: S603 - our own command
            [
                str(redis_server()), *options.split(), "--save", "",
                "--loadmodule", str(redisearch_module()),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _wait_until_ready(port, process)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait(10)


def _wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with redis.Redis(port=port) as client:
                client.ping()
                return
        except redis.RedisError:
            time.sleep(0.05)
    raise RedisMissing("redis-server did not start")
