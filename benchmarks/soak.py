"""Does anything grow? The whole stack under a steady mix for a long time.

`python -m benchmarks.soak [--minutes 20] [--clients 24] [--think 0.5]`

Two thirds of the clients wait for answers to prompts like no other, one third repeats itself.
Memory, file descriptors and threads of every process are noted forty times. What counts is the
slope after the first quarter, by least squares, in percent of the mean for each hour.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.load import Load, load
from benchmarks.processes import Taken
from benchmarks.report import write
from benchmarks.stack import SUBMISSION, MeasuredStack, different

PROCESSES = ("api", "worker1", "redis", "system", "beat")
LOOKS = 40  # at least two are needed after the first quarter


def _slope(times: list[float], values: list[float]) -> float:
    """Percent of the mean for each hour."""
    mean = statistics.fmean(values)
    return 100 * 3600 * statistics.linear_regression(times, values).slope / mean if mean else 0.0


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--think", type=float, default=0.5, help="mean seconds")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    arguments = parser.parse_args()
    seconds = arguments.minutes * 60
    runs: list[Load] = []
    looks: list[tuple[float, dict[str, Taken]]] = []
    with tempfile.TemporaryDirectory() as name:
        # Jobs of the first minutes go while it runs, as they do in a life of months.
        stack = MeasuredStack(
            Path(name), JOB_RETENTION_SECONDS="120", CACHE_TTL="120", CACHE_MAX_BYTES="20000000"
        )
        try:
            stack.start_redis()
            stack.start_upstream()
            stack.start_api()
            stack.start_worker("worker1")
            stack.start_system()
            stack.start_beat()
            target = stack.target("/v1/inference?wait=30")
            fresh, same = different(SUBMISSION), itertools.repeat(next(different(SUBMISSION)))
            mixed = (next(same) if n % 3 == 2 else next(fresh) for n in itertools.count())

            def run() -> None:
                runs.append(
                    load(target, mixed, clients=arguments.clients, seconds=seconds,
                         warm=5, think=arguments.think)
                )  # fmt: skip

            clients = threading.Thread(target=run)
            clients.start()
            begun = time.monotonic()
            while clients.is_alive():
                clients.join(seconds / LOOKS)
                if clients.is_alive():
                    now = {name: stack.taken(name) for name in PROCESSES}
                    looks.append((time.monotonic() - begun, now))
        finally:
            stack.stop()
    (done,) = runs
    later = [(at, now) for at, now in looks if at > seconds / 4]
    times = [at for at, _ in later]
    rows = []
    for process in PROCESSES:
        row = {"process": process}
        for title, of in (
            ("MB", lambda t: t.megabytes), ("descriptors", lambda t: float(t.descriptors)),
            ("threads", lambda t: float(t.threads)),
        ):  # fmt: skip
            values = [of(now[process]) for _, now in later]
            row[f"{title} at 1/4"] = f"{values[0]:.0f}"
            row[f"{title} at the end"] = f"{values[-1]:.0f}"
            row[f"{title}, % an hour"] = f"{_slope(times, values):+.1f}"
        rows.append(row)
    data = {
        "load": asdict(done),
        "looks": [
            {"seconds": at, **{name: asdict(one) for name, one in now.items()}} for at, now in looks
        ],
    }
    print(f"{done.answered} answered, {done.rate}/s, p95 {done.p95} ms, {done.statuses}")
    write("soak", f"python -m benchmarks.soak --minutes {arguments.minutes:g}", rows, data,
          arguments.out)  # fmt: skip


if __name__ == "__main__":
    main()
