"""Submitting, side by side with the naive Flask + Celery app of `benchmarks/naive`.

`python -m benchmarks.submit [--clients 32] [--seconds 10] [--repeats 3]`

One API process each, and a Redis each with the same options (append-only file on); both on the
same core, the load on another. The arms take turns, so that what else the machine does meets both.
Ours writes a durable record with its place in a fair queue; the reference a bare Celery message.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

from benchmarks.load import Load, load
from benchmarks.report import cell, write
from benchmarks.stack import SUBMISSION, MeasuredStack, NaiveStack, different


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", default="1", help="of the servers; empty: any")
    parser.add_argument("--load-cores", type=int, nargs="*", default=[0])
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    arguments = parser.parse_args()
    if arguments.load_cores:
        os.sched_setaffinity(0, arguments.load_cores)
    found: dict[tuple[str, int], list[tuple[Load, float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = MeasuredStack(folder, cores=arguments.cores, API_THREADS="64")
        naive = NaiveStack(folder, cores=arguments.cores)
        try:
            ours.start_redis()
            ours.start_api()
            naive.start()
            arms = {
                arm: (stack, stack.target("/v1/inference"))
                for arm, stack in (("ours", ours), ("naive", naive))
            }
            for _ in range(arguments.repeats):
                for clients in arguments.clients:
                    for arm, (stack, target) in arms.items():
                        before = stack.taken("api"), stack.taken("redis")
                        run = load(
                            target, different(SUBMISSION), clients=clients,
                            seconds=arguments.seconds,
                        )  # fmt: skip
                        after = stack.taken("api"), stack.taken("redis")
                        share = run.seconds / (run.seconds + 1.8)  # warm-up is in the CPU time
                        cpu = [
                            1000 * (b.cpu_seconds - a.cpu_seconds) * share / max(run.answered, 1)
                            for a, b in zip(before, after, strict=True)
                        ]
                        found[arm, clients].append((run, cpu[0], cpu[1]))
                        stack.redis.flushdb()
        finally:
            ours.stop()
            naive.stop()
    rows = [
        {
            "arm": arm,
            "clients": str(clients),
            "requests/s": cell([run.rate for run, _, _ in runs]),
            "p50 ms": cell([run.p50 for run, _, _ in runs], 1),
            "p99 ms": cell([run.p99 for run, _, _ in runs], 1),
            "API CPU ms/request": cell([api for _, api, _ in runs], 2),
            "Redis CPU ms/request": cell([own for _, _, own in runs], 2),
            "not 2xx": str(sum(sum(r.statuses.values()) - r.answered for r, _, _ in runs)),
            "of naive": cell(
                [
                    run.rate / other.rate
                    for (run, _, _), (other, _, _) in zip(
                        runs, found["naive", clients], strict=True
                    )
                ],
                2,
            ),
        }
        for (arm, clients), runs in sorted(found.items(), key=lambda item: item[0][1])
    ]
    data = [
        {"arm": arm, **asdict(run), "api_cpu_ms": api, "redis_cpu_ms": own}
        for (arm, _), runs in found.items()
        for run, api, own in runs
    ]
    write("submit", "python -m benchmarks.submit", rows, data, arguments.out)


if __name__ == "__main__":
    main()
