"""1,000 clients at once, each waiting for its answers: `POST /v1/inference?wait=30`.

`benchmarks/peers.sh && python -m benchmarks.thousand_clients [--clients 1000] [--think 16]`

Locust plays the clients if it is there (`--locust`), else our own load generator. Every client
keeps its connection, sends a prompt, waits for the answer of the queue's worker (the upstream takes
50 ms), thinks, and sends the next. One API process, one worker process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.load import Load, load
from benchmarks.report import write
from benchmarks.stack import SUBMISSION, MeasuredStack, different

PROCESSES = ("api", "worker1", "redis", "system", "beat")


def _locust(stack: MeasuredStack, arguments: argparse.Namespace) -> Load:
    """The clients as locust's; what it measures while they come is in the figures too."""
    command = [
        str(arguments.locust.absolute()), "--headless", "--json", "--only-summary",
        "--locustfile", str(Path(__file__).parent / "locustfile.py"), "--host", stack.url,
        "--users", str(arguments.clients), "--spawn-rate", "200", "--stop-timeout", "30",
        "--run-time", f"{arguments.seconds + arguments.think:.0f}s",
    ]  # fmt: skip
    done = subprocess.run(
        command,
        env={**os.environ, "TOKEN": stack.token(), "THINK": str(arguments.think)},
        capture_output=True,
        text=True,
        check=False,
        timeout=arguments.seconds + arguments.think + 120,
    )
    (found,) = json.loads(done.stdout)
    times: list[float] = sorted(
        milliseconds
        for milliseconds, count in found["response_times"].items()
        for milliseconds in [float(milliseconds)] * count
    )
    failed, asked = int(found["num_failures"]), int(found["num_requests"])
    seconds = found["last_request_timestamp"] - found["start_time"]
    return Load(
        clients=arguments.clients,
        seconds=round(seconds, 1),
        answered=asked - failed,
        rate=round((asked - failed) / seconds, 1),
        p50=times[len(times) // 2],
        p95=times[int(len(times) * 0.95)],
        p99=times[int(len(times) * 0.99)],
        statuses={"200": asked - failed, "failed": failed},
        cached=0,
    )


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--think", type=float, default=16, help="mean seconds")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--locust", type=Path, default=Path("build/peers/locust/bin/locust"))
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        stack = MeasuredStack(Path(name), MAX_WORKERS="128")
        try:
            stack.start_redis()
            stack.start_upstream()
            stack.start_api()
            stack.start_worker("worker1")
            stack.start_system()
            stack.start_beat()
            target = stack.target("/v1/inference?wait=30")
            load(target, different(SUBMISSION), clients=2, seconds=1, warm=4)
            rest = stack.taken(*PROCESSES)
            if arguments.locust.exists():
                run = _locust(stack, arguments)
            else:
                run = load(
                    target,
                    different(SUBMISSION),
                    clients=arguments.clients,
                    seconds=arguments.seconds,
                    warm=arguments.think,
                    think=arguments.think,
                )
            loaded = stack.taken(*PROCESSES)
        finally:
            stack.stop()
    row = {
        "clients": str(run.clients),
        "answered": str(run.answered),
        "answers/s": f"{run.rate:.0f}",
        "p50 ms": f"{run.p50:.0f}",
        "p95 ms": f"{run.p95:.0f}",
        "p99 ms": f"{run.p99:.0f}",
        "not 200": str(sum(run.statuses.values()) - run.statuses.get("200", 0)),
        "MB at rest": f"{rest.megabytes:.0f}",
        "MB under load": f"{loaded.megabytes:.0f}",
        "threads": str(loaded.threads),
        "descriptors": str(loaded.descriptors),
    }
    data = {"run": asdict(run), "rest": asdict(rest), "loaded": asdict(loaded)}
    write("thousand_clients", "python -m benchmarks.thousand_clients", [row], data, arguments.out)


if __name__ == "__main__":
    main()
