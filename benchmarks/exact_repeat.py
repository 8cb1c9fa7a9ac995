"""Exact repeats, answered by one API process on one core.

`python -m benchmarks.exact_repeat [--clients 32] [--seconds 8] [--repeats 3]`

A worker answers the prompt once and stores it; then every client submits just that prompt, to
`/v1/inference` and to `/v1/chat/completions`. Redis and the load are on the other core. Each answer
is a job of its own, recorded as ended.

Beside them two of `benchmarks/naive`: a bare Flask route under the same server that reads one key
of Redis and returns it, of which every such answer consists at least, and the naive app's
submission, by which figures of different machines can be compared.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

import requests

from benchmarks.load import Load, Target, load
from benchmarks.report import cell, write
from benchmarks.stack import SUBMISSION, MeasuredStack, NaiveStack, chat, different

ARMS = {
    "/v1/inference": next(different(SUBMISSION)),
    "/v1/chat/completions": next(different(chat("gemma3-270m"))),
}


BARE, NAIVE = "a bare Flask route", "a naive submission"


def expected(arm: str) -> str:
    """The status of a right answer: 202 would be a repeat that went into the queue."""
    return "202" if arm == NAIVE else "200"


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", default="1", help="of the API; empty: any")
    parser.add_argument("--load-cores", type=int, nargs="*", default=[0])
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    arguments = parser.parse_args()
    if arguments.load_cores:
        os.sched_setaffinity(0, arguments.load_cores)
    other = ",".join(map(str, arguments.load_cores))
    found: dict[tuple[str, int], list[tuple[Load, float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        stack = MeasuredStack(
            Path(name), cores=arguments.cores, redis_cores=other, API_THREADS="64"
        )
        bare = NaiveStack(Path(name), cores=arguments.cores, redis_cores=other)
        arms: dict[str, tuple[MeasuredStack | NaiveStack, Target, bytes]] = {}
        try:
            bare.start()
            stack.start_redis()
            stack.start_upstream()
            stack.start_api()
            stack.start_worker("worker1")
            for path, body in ARMS.items():
                headers = {
                    "Authorization": f"Bearer {stack.token()}",
                    "Content-Type": "application/json",
                    "Prefer": "wait=30",
                }
                answer = requests.post(stack.url + path, body, headers=headers, timeout=60)
                answer.raise_for_status()
                arms[path] = stack, stack.target(path), body
            bare.redis.set("stored", answer.content)
            arms[BARE] = bare, bare.target("/v1/stored"), body
            arms[NAIVE] = bare, bare.target("/v1/inference"), ARMS["/v1/inference"]
            stack.kill("worker1")  # nobody but the API can answer now
            for _, (arm, (side, target, body)), clients in itertools.product(
                range(arguments.repeats), arms.items(), arguments.clients
            ):
                before = [side.taken(name).cpu_seconds for name in ("api", "redis")]
                run = load(
                    target, itertools.repeat(body), clients=clients, seconds=arguments.seconds
                )
                after = [side.taken(name).cpu_seconds for name in ("api", "redis")]
                share = run.seconds / (run.seconds + 1.8)  # warm-up is in the CPU time
                cpu = [
                    1000 * (b - a) * share / max(run.answered, 1)
                    for a, b in zip(before, after, strict=True)
                ]
                found.setdefault((arm, clients), []).append((run, cpu[0], cpu[1]))
        finally:
            stack.stop()
            bare.stop()
    rows = [
        {
            "call": arm,
            "clients": str(clients),
            "answers/s": cell([run.rate for run, _, _ in runs]),
            "p50 ms": cell([run.p50 for run, _, _ in runs], 1),
            "p99 ms": cell([run.p99 for run, _, _ in runs], 1),
            "API CPU ms/answer": cell([api for _, api, _ in runs], 2),
            "per API core and second": cell([1000 / api for _, api, _ in runs]),
            "Redis CPU ms/answer": cell([own for _, _, own in runs], 2),
            "other answers": str(
                sum(sum(r.statuses.values()) - r.statuses.get(expected(arm), 0) for r, _, _ in runs)
            ),
        }
        for (arm, clients), runs in found.items()
    ]
    data = [
        {"call": arm, **asdict(run), "api_cpu_ms": api, "redis_cpu_ms": own}
        for (arm, _), runs in found.items()
        for run, api, own in runs
    ]
    write("exact_repeat", "python -m benchmarks.exact_repeat", rows, data, arguments.out)


if __name__ == "__main__":
    main()
