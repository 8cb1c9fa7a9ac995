"""Submissions by many clients while workers are killed: is anything lost or doubled?

    python -m tests.faults.storm --jobs 1000 --clients 32 --kills 2

Prints one JSON object; exit code 1 if a job was lost or ended more than once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import redis
import requests

from tasks.jobs import JobState
from tests.stack import RealStack, eventually, real_stack

ENDED = {state.value for state in JobState if state.terminal}


def submit_all(
    stack: RealStack, jobs: int, clients: int, progress: Counter[str], rate: float = math.inf
) -> list[str]:
    """Submit from `clients` threads, at most `rate` a second; the ids that were accepted (202)."""
    local = threading.local()
    began = time.monotonic()
    pause = threading.Event()

    def one(number: int) -> str | None:
        if not hasattr(local, "session"):
            local.session = stack.session(user=f"user{number % clients}")
        pause.wait(max(0.0, began + number / rate - time.monotonic()))
        for _ in range(3):  # a client tries again when it was not told of an acceptance
            try:
                response = local.session.post(
                    f"{stack.url}/v1/inference",
                    json={
                        "prompt": f"storm {number}",
                        "priority": ("high", "normal", "low")[number % 3],
                        "cache": {"mode": "off"},
                    },
                    headers={"Idempotency-Key": f"storm-{number}"},
                    timeout=10,
                )
            except requests.RequestException:
                continue
            if response.status_code == 202:
                progress["accepted"] += 1
                return str(response.json()["id"])
        progress["refused"] += 1
        return None

    with ThreadPoolExecutor(clients) as pool:
        return [job_id for job_id in pool.map(one, range(jobs)) if job_id]


def audit(stack: RealStack, accepted: list[str], seconds: float) -> dict[str, Any]:
    """Wait for every accepted job to end, then count what the ledger says."""
    end = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        states = [
            (stack.redis.hget(f"{stack.settings.key_prefix}job:{job_id}", "state") or b"").decode()
            for job_id in accepted
        ]
        if all(state in ENDED for state in states) or time.monotonic() > end:
            break
        pause.wait(0.25)
    return {
        "accepted": len(accepted),
        "distinct": len(set(accepted)),
        "lost": sum(state not in ENDED for state in states),
        "states": dict(Counter(states)),
    }


def storm(
    jobs: int, clients: int, kills: int, workers: int, latency: float, rate: float = math.inf
) -> dict[str, Any]:
    """One storm on a fresh stack."""
    with (
        tempfile.TemporaryDirectory() as folder,
        real_stack(Path(folder), "--latency", str(latency), workers=workers) as stack,
    ):
        progress: Counter[str] = Counter()
        started = time.monotonic()
        recovery: list[float] = []
        watches: list[threading.Thread] = []

        def killer() -> None:
            for kill in range(kills):
                at = jobs * (kill + 1) // (kills + 1)
                while progress["accepted"] + progress["refused"] < at:
                    threading.Event().wait(0.02)
                name = f"worker{kill % workers + 1}"
                held = held_by(stack, name)
                stack.kill(name)
                killed = time.monotonic()
                stack.start_worker(name, wait=False)
                # One at a time: a job that loses its worker three times is given up, rightly.
                heart = stack.folder / f"{name}.heart"
                watch = partial(time_recoveries, stack, held, killed, recovery)
                watches.append(threading.Thread(target=watch))
                watches[-1].start()
                eventually(heart.exists, seconds=60, what=f"{name} back", every=0.25)

        thread = threading.Thread(target=killer)
        thread.start()
        accepted = submit_all(stack, jobs, clients, progress, rate)
        submitted = time.monotonic() - started
        thread.join()
        report = audit(stack, accepted, seconds=120)
        for watch in watches:
            watch.join()
        calls = stack.provider_calls()["count"]
        return {
            **report,
            "refused": progress["refused"],
            "kills": kills,
            "submit_seconds": round(submitted, 2),
            "total_seconds": round(time.monotonic() - started, 2),
            "provider_calls": calls,
            "duplicate_provider_calls": calls - report["accepted"],
            "recovery_seconds": recovery_report(recovery),
        }


def held_by(stack: RealStack, name: str) -> list[str]:
    """The jobs that a worker process runs now; none when Redis does not say."""
    worker = f"{socket.gethostname()}:{stack.processes[name].pid}".encode()
    try:
        ids = [i.decode() for i in stack.redis.zrange(stack.ledger.key("due"), 0, -1)]
        pipe = stack.redis.pipeline(transaction=False)
        for job_id in ids:
            pipe.hmget(stack.ledger.key("job", job_id), "state", "worker")
        found = pipe.execute()
    except redis.RedisError:
        return []
    return [i for i, one in zip(ids, found, strict=True) if one == [b"running", worker]]


def time_recoveries(
    stack: RealStack, held: list[str], killed: float, recovery: list[float]
) -> None:
    """Note for each job, as it ends, the seconds since its worker was killed."""
    left = set(held)
    pause = threading.Event()
    while left and time.monotonic() < killed + 120:
        with contextlib.suppress(redis.RedisError):
            for job_id in sorted(left):
                state = stack.redis.hget(stack.ledger.key("job", job_id), "state") or b""
                if state.decode() in ENDED:
                    left.discard(job_id)
                    recovery.append(time.monotonic() - killed)
        pause.wait(0.1)
    recovery += [math.inf] * len(left)  # never


def recovery_report(seconds: list[float]) -> dict[str, float | None]:
    """How many jobs lost their worker, how many never ended, and when the others did."""
    ended = sorted(value for value in seconds if math.isfinite(value))

    def percentile(part: float) -> float | None:
        return round(ended[math.ceil(part * len(ended)) - 1], 2) if ended else None

    return {
        "jobs": len(seconds),
        "never": len(seconds) - len(ended),
        "p50": percentile(0.5),
        "p95": percentile(0.95),
        "max": percentile(1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--latency", type=float, default=0.05, help="of the provider, seconds")
    parser.add_argument("--rate", type=float, default=math.inf, help="submissions a second")
    given = parser.parse_args()
    report = storm(given.jobs, given.clients, given.kills, given.workers, given.latency, given.rate)
    print(json.dumps(report, indent=2))
    good = (
        report["lost"] == 0
        and report["refused"] == 0
        and report["accepted"] == report["distinct"] == given.jobs
        and set(report["states"]) == {"succeeded"}
    )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
