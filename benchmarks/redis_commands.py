"""What one Redis command costs this process: our client beside the library's own.

`python -m benchmarks.redis_commands [--commands 20000]`

Both run the same script on the same Redis by turns; the figure is processor time of this process.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import redis

from app.stack.embedded import free_port, redis_command
from benchmarks.processes import wait_for
from benchmarks.report import cell, write
from tasks.redis_client import POOL_SIZE, connect

TURNS = 20


def measure(clients: dict[str, redis.Redis], commands: int) -> dict[str, list[float]]:
    """Microseconds of processor time for each command, turn by turn."""
    found: dict[str, list[float]] = {name: [] for name in clients}
    for _ in range(TURNS):
        for name, client in clients.items():
            script = client.register_script("return {1, 2}")
            script(args=["warm", "up"])
            began = time.process_time()
            for _ in range(commands // TURNS):
                script(args=["a", "b"])
            found[name].append(1e6 * (time.process_time() - began) / (commands // TURNS))
    return found


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    arguments = parser.parse_args()
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    with tempfile.TemporaryDirectory() as name:
        server = subprocess.Popen(redis_command(port, Path(name)), stdout=subprocess.DEVNULL)
        try:
            theirs = redis.Redis(
                connection_pool=redis.BlockingConnectionPool.from_url(
                    url, max_connections=POOL_SIZE, socket_timeout=1
                )
            )
            wait_for("Redis", lambda: _up(theirs))
            found = measure({"ours": connect(url), "redis-py's": theirs}, arguments.commands)
        finally:
            server.terminate()
            server.wait(15)
    rows = [{"client": name, "us/command": cell(values)} for name, values in found.items()]
    data = [{"client": name, "us": values} for name, values in found.items()]
    write("redis_commands", "python -m benchmarks.redis_commands", rows, data, arguments.out)


def _up(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


if __name__ == "__main__":
    main()
