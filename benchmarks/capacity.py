"""What one job costs, in processor time of each process and in memory of Redis.

    python -m benchmarks.capacity [--jobs 1000] [--scripts 5000] [--kilobytes 1]

Two parts. First a Redis of its own, on which each ledger script runs alone: microseconds as Redis
counts them, bytes per waiting and per ended job. Then the whole stack with a provider that answers
after 50 ms: processor seconds of every process (user and system, with its children), taken from
/proc, divided by the jobs that ended. Clients and provider share the machine, so rates measured on
it would be theirs too; processor time is not. Prints one JSON object; docs/scale.md has the
formulae.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tasks.inference import Priority
from tasks.jobs import Job, JobState
from tasks.ledger import Idempotency, Ledger, Limits, NewJob
from tests.redis_server import redis_server
from tests.stack import RealStack, eventually, real_stack

TICKS = os.sysconf("SC_CLK_TCK")
TENANTS = 20
CLIENTS = 16


@dataclass(frozen=True)
class Usage:
    """What a process and its children have used."""

    seconds: float  # of a processor
    megabytes: float  # resident, shared pages divided among those who share them


def usage(pid: int) -> Usage:
    """Of every process in the group of `pid`."""
    seconds, kilobytes = 0.0, 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) != pid:
                continue
            seconds += (int(fields[11]) + int(fields[12])) / TICKS
            rollup = (folder / "smaps_rollup").read_text()
            kilobytes += int(rollup.partition("\nPss:")[2].split()[0])
        except (OSError, ValueError, IndexError):
            continue  # a process that has just ended
    return Usage(seconds, kilobytes / 1000)


def new_job(number: int, text: str) -> NewJob:
    """A job as the API makes it, with a prompt of its own."""
    return NewJob(
        tenant=f"tenant{number % TENANTS}",
        user="ann",
        lane=Priority.NORMAL,
        request=json.dumps({"prompt": f"{number} {text}", "user_id": "ann"}).encode(),
        fingerprint=f"{number:064x}",
        request_id=f"req_{number:024x}",
        deadline_seconds=600,
        retention_seconds=86_400,
        max_attempts=3,
        idempotency=Idempotency(f"ann:key:{number:032x}", f"{number:064x}"),
    )


def measure_scripts(count: int, kilobytes: float) -> dict[str, Any]:
    """Microseconds per script and bytes per job, on a Redis that does nothing else."""
    text, result = "x" * round(kilobytes * 1000), b'"' + b"y" * round(kilobytes * 1000) + b'"'
    with redis_server() as (url, _process), redis.Redis.from_url(url) as client:
        ledger = Ledger(client, "if:")
        warm, _ = ledger.submit(new_job(-1, text), limits=Limits())  # loads the scripts
        assert ledger.claim(Priority.NORMAL, "w", 60) is not None
        ledger.cancel(warm.job.id, warm.job.tenant)
        client.delete("if:broker:inference.normal")

        def timed(work: Callable[[], None]) -> dict[str, float]:
            """Inside the script as Redis counts it, and all that its process spent on a call."""
            client.config_resetstat()
            before = client.info("cpu")
            work()
            after = client.info("cpu")
            calls = client.info("commandstats")["cmdstat_evalsha"]
            spent = sum(after[key] - before[key] for key in ("used_cpu_user", "used_cpu_sys"))
            return {
                "script_us": round(calls["usec_per_call"], 1),
                "processor_us": round(spent * 1e6 / calls["calls"], 1),
            }

        jobs: list[Job] = []

        def claim() -> None:
            for _ in range(count):
                job = ledger.claim(Priority.NORMAL, "w", 600)
                assert job is not None
                jobs.append(job)

        def submit() -> None:
            for number in range(count):
                ledger.submit(new_job(number, text), limits=Limits())

        def finish() -> None:
            for job in jobs:
                assert ledger.finish(job, JobState.SUCCEEDED, result=result, provider_ms=50)

        empty = client.info("memory")["used_memory"]
        microseconds = {"submit": timed(submit)}
        waiting = client.info("memory")["used_memory"]
        microseconds["claim"] = timed(claim)
        microseconds["renew 32 leases"] = timed(lambda: _renew(ledger, jobs[:32]))
        microseconds["finish"] = timed(finish)
        client.delete("if:broker:inference.normal")
        ended = client.info("memory")["used_memory"]
    return {
        "scripts": microseconds,
        "bytes_per_waiting_job": round((waiting - empty) / count),
        "bytes_per_ended_job": round((ended - empty) / count),
    }


def _renew(ledger: Ledger, jobs: list[Job]) -> None:
    for _ in range(100):
        ledger.renew([(job.id, job.fence) for job in jobs], 600)


def measure_stack(jobs: int, kilobytes: float) -> dict[str, Any]:
    """Processor time of each process per job, through HTTP, Celery and a provider."""
    text = "word " * round(kilobytes * 200)
    with (
        tempfile.TemporaryDirectory() as folder,
        real_stack(
            Path(folder), "--latency", "0.05", workers=1,
            MAX_QUEUE_DEPTH="1000000", MAX_TENANT_QUEUE_DEPTH="1000000",
        ) as stack,
    ):  # fmt: skip
        _run(stack, 50, text, "warm")  # models loaded, connections open
        idle = _idle_shares(stack)
        return {
            "jobs": jobs,
            "idle_processor_share": {name: round(share, 4) for name, share in idle.items()},
            "cache off": _phase(stack, jobs, text, idle, mode="off"),
            "cache miss": _phase(stack, jobs, text, idle, mode="on"),
            "exact hit": _phase(stack, jobs, text, idle, mode="on"),
            "megabytes": {
                name: round(usage(process.pid).megabytes)
                for name, process in stack.processes.items()
                if name != "provider"
            },
        }


def _seconds(stack: RealStack) -> dict[str, float]:
    return {
        name: usage(process.pid).seconds
        for name, process in stack.processes.items()
        if name != "provider"
    }


def _idle_shares(stack: RealStack, seconds: float = 5.0) -> dict[str, float]:
    before = _seconds(stack)
    eventually(_after(seconds), seconds=seconds + 5, what="an idle while")
    return {name: (spent - before[name]) / seconds for name, spent in _seconds(stack).items()}


def _phase(
    stack: RealStack, jobs: int, text: str, idle: dict[str, float], *, mode: str
) -> dict[str, Any]:
    before = _seconds(stack)
    stack.redis.config_resetstat()
    started = time.monotonic()
    _run(stack, jobs, text, f"capacity {mode}", mode)
    took = time.monotonic() - started
    milliseconds = {}
    for name, spent in _seconds(stack).items():
        per_job = max(spent - before[name] - idle[name] * took, 0.0) / jobs
        milliseconds[name] = round(per_job * 1000, 2)
    return {
        "seconds": round(took, 1),
        "processor_ms_per_job": milliseconds,
        "redis_us_per_job": _busiest(stack, jobs),
    }


def _busiest(stack: RealStack, jobs: int) -> dict[str, float]:
    """The commands that cost Redis most; those inside a script count for the script as well."""
    spent = {
        name.removeprefix("cmdstat_"): stats["usec"] / jobs
        for name, stats in stack.redis.info("commandstats").items()
    }
    top = sorted(spent, key=lambda name: spent[name], reverse=True)[:10]
    return {name: round(spent[name], 1) for name in top}


def _after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def _run(stack: RealStack, jobs: int, text: str, start: str, mode: str = "off") -> None:
    """Submit prompts, each distinct by its first words, and wait until all have succeeded."""
    sessions = [stack.session(user=f"user{number}") for number in range(CLIENTS)]

    def submit(number: int) -> str:
        response = sessions[number % CLIENTS].post(
            f"{stack.url}/v1/inference",
            json={
                "prompt": f"{start} {number} {text}",
                "model_preference": "gemma3-270m",
                "cache": {"mode": mode},
            },
            timeout=30,
        )
        assert response.status_code in (200, 202), response.text  # 200: an exact hit
        return str(response.json()["id"])

    with ThreadPoolExecutor(CLIENTS) as pool:
        ids = list(pool.map(submit, range(jobs)))

    def ended() -> bool:
        pipe = stack.redis.pipeline(transaction=False)
        for job_id in ids:
            pipe.hget(stack.ledger.key("job", job_id), "state")
        states = set(pipe.execute())
        assert states <= {b"queued", b"running", b"succeeded"}, states
        return states == {b"succeeded"}

    eventually(ended, seconds=300, what="all jobs succeeded", every=0.5)


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000, help="through the whole stack")
    parser.add_argument("--scripts", type=int, default=5000, help="calls of each script")
    parser.add_argument("--kilobytes", type=float, default=1.0, help="of prompt and of answer")
    asked = parser.parse_args()
    found = {
        "redis": measure_scripts(asked.scripts, asked.kilobytes),
        "stack": measure_stack(asked.jobs, asked.kilobytes) if asked.jobs else None,
    }
    json.dump(found, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
