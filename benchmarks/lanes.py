"""Jobs a second by priority, while all three lanes are full.

`python -m benchmarks.lanes [--jobs 1200] [--workers 1]`

`--jobs` jobs wait in each lane before the worker starts; the upstream answers after 50 ms. While
none of the lanes is empty, high, normal and low should be served 6 : 3 : 1.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.report import write
from benchmarks.stack import SUBMISSION, MeasuredStack, different
from tasks.inference import InferenceRequest, Priority
from tasks.ledger import Limits, NewJob

LOOK_SECONDS = 0.1


def _fill(stack: MeasuredStack, lane: Priority, jobs: int) -> None:
    for body, _ in zip(different(SUBMISSION), range(jobs), strict=False):
        request = InferenceRequest.model_validate_json(
            body[:-1] + b', "user_id": "load", "created_at": "2026-01-01T00:00:00Z"}'
        )
        stack.ledger.submit(
            NewJob(
                tenant="load",
                user="load",
                lane=lane,
                request=request.model_dump_json(exclude_defaults=True).encode(),
                fingerprint="",
                request_id="load",
                deadline_seconds=3600,
                retention_seconds=3600,
                max_attempts=3,
            ),
            limits=Limits(10**9, 10**9),
        )


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1200)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        stack = MeasuredStack(Path(name), CACHE_SEMANTIC="false")
        try:
            stack.start_redis()
            stack.start_upstream()
            stack.start_system()
            stack.start_beat()
            for lane in Priority:
                _fill(stack, lane, arguments.jobs)
            for number in range(arguments.workers):
                stack.start_worker(f"worker{number}", wait=False)
            full = dict.fromkeys(Priority, arguments.jobs)
            seen: list[tuple[float, dict[Priority, int]]] = []
            while True:
                left = {lane: load.ready for lane, load in stack.ledger.loads().items()}
                if sum(left.values()) < sum(full.values()):
                    seen.append((time.monotonic(), left))
                if not sum(left.values()):
                    break
                time.sleep(LOOK_SECONDS)
        finally:
            stack.stop()
    begun, first = seen[0]
    together, last = next((at, left) for at, left in reversed(seen) if min(left.values()) > 0)
    seconds = together - begun
    done = {lane: first[lane] - last[lane] for lane in Priority}
    rows = [
        {
            "lane": lane.value,
            "jobs/s while all are full": f"{done[lane] / seconds:.0f}",
            "share": f"{done[lane] / sum(done.values()):.0%}",
            "empty after s": f"{next(at for at, left in seen if not left[lane]) - begun:.1f}",
        }
        for lane in (Priority.HIGH, Priority.NORMAL, Priority.LOW)
    ]
    rows.append(
        {
            "lane": "all",
            "jobs/s while all are full": f"{sum(done.values()) / seconds:.0f}",
            "share": "100%",
            "empty after s": f"{seen[-1][0] - begun:.1f}",
        }
    )
    data = [
        {"seconds": at - begun, **{lane.value: n for lane, n in left.items()}} for at, left in seen
    ]
    write("lanes", "python -m benchmarks.lanes", rows, data, arguments.out)


if __name__ == "__main__":
    main()
