"""What do budgets cost a submission?

    python -m benchmarks.budget_overhead --pairs 3000

One Redis, two API processes on it: one holds jobs against budgets and limits of tenant and user,
the other has BUDGETS_ENABLED=false. One client submits in pairs, one job to each, in random order,
so that whatever else the machine does falls on both. Prints one JSON object; exit code 1 when the
median of the submissions with budgets is more than 10% above that without.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import requests

from app.stack.embedded import free_port
from tasks.accounts import now_ms
from tasks.database import Database
from tasks.models import Budget, Limit, Tenant
from tests.stack import RealStack

ALLOWED = 1.10
WARM_UP = 200


def allow_plenty(stack: RealStack) -> None:
    """Every kind of budget and limit, none of them ever reached."""
    database = Database(stack.settings.database_url)
    with database.session() as session:
        session.add(Tenant(name="acme", title="", disabled=False, created_at=now_ms()))
        session.flush()
        for user in ("", "ann"):
            session.add(
                Budget(
                    tenant="acme", user=user, day_nano=10**15, month_nano=10**15,
                    day_tokens=10**12, month_tokens=10**12,
                )
            )  # fmt: skip
            session.add(
                Limit(
                    tenant="acme", user=user, tokens_per_minute=10**9, open_jobs=10**7,
                    waiting_jobs=None if user else 10**7,
                )
            )  # fmt: skip
    database.close()


def submit(session: requests.Session, url: str) -> float:
    """Milliseconds that one submission took."""
    started = time.perf_counter()
    response = session.post(
        f"{url}/v1/inference", json={"prompt": "What do budgets cost?", "max_tokens": 64}
    )
    took = time.perf_counter() - started
    assert response.status_code == 202, response.text
    return took * 1000


def measure(pairs: int, folder: Path) -> dict[str, Any]:
    stack = RealStack(folder)
    try:
        stack.start_redis()
        allow_plenty(stack)
        stack.start_api("with")
        with_url = stack.url
        other = free_port()
        stack.env |= {"API_PORT": str(other), "BUDGETS_ENABLED": "false"}
        stack.url = f"http://127.0.0.1:{other}"
        stack.start_api("without")
        urls = {"with": with_url, "without": stack.url}
        sessions = {name: stack.session() for name in urls}
        took: dict[str, list[float]] = {name: [] for name in urls}
        for number in range(WARM_UP + pairs):
            for name in random.sample(sorted(urls), 2):
                milliseconds = submit(sessions[name], urls[name])
                if number >= WARM_UP:
                    took[name].append(milliseconds)
        held = stack.redis.hget(stack.ledger.key("reserved", "acme"), "u:ann:j")
        assert int(held or 0) == WARM_UP + pairs  # budgets were on in one, and only in one
        memory = {name: resident_mb(stack, name) for name in urls}
    finally:
        stack.stop()
    medians = {name: statistics.median(values) for name, values in took.items()}
    differences = [a - b for a, b in zip(took["with"], took["without"], strict=True)]
    return {
        "pairs": pairs,
        "median_ms": {name: round(value, 3) for name, value in medians.items()},
        "p95_ms": {
            name: round(statistics.quantiles(values, n=20)[18], 3) for name, values in took.items()
        },
        "ratio_of_medians": round(medians["with"] / medians["without"], 4),
        "median_difference_ms": round(statistics.median(differences), 4),
        "api_resident_mb": memory,
    }


def resident_mb(stack: RealStack, name: str) -> float:
    """Of the API process that serves: the largest of the group."""
    group = stack.processes[name].pid
    sizes = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            pages = int((status.parent / "statm").read_text().split()[1])
        except OSError:
            continue  # it has ended
        if int(fields[2]) == group:
            sizes.append(pages * 4096 / 2**20)
    return round(max(sizes), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(given.pairs, Path(folder))
    print(json.dumps(report, indent=2))
    sys.exit(0 if report["ratio_of_medians"] <= ALLOWED else 1)


if __name__ == "__main__":
    main()
