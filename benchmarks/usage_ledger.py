"""Does the usage ledger hold every job when its database is stopped in the middle of a run?

    python -m benchmarks.usage_ledger --jobs 5000

Starts the whole stack on a PostgreSQL of its own, submits jobs that cost money (some repeated, so
that the cache answers them), stops PostgreSQL when a third has been accepted and starts it again
when all have. Prints one JSON object; exit code 1 unless there is exactly one row for each job,
with sums equal to those of the job records, to the nano-dollar.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import func, select

from config.catalogue import DEFAULT_PATH
from tasks.database import Database
from tasks.models import UsageRow
from tasks.money import dollars, nano
from tasks.schema import upgrade
from tests.accounts.postgres import Server, running_postgres
from tests.stack import RealStack, eventually, real_stack

ENDED = {b"succeeded", b"failed", b"cancelled", b"expired"}
CLIENTS = 16


def priced_catalogue(folder: Path) -> Path:
    """The shipped catalogue with a price for the local model."""
    text = DEFAULT_PATH.read_text()
    free = "price: {input: 0, output: 0}"
    assert text.count(free) == 1
    path = folder / "models.yaml"
    path.write_text(text.replace(free, "price: {input: 0.137, output: 0.411}"))
    return path


def submit_all(stack: RealStack, jobs: int, progress: Counter[str]) -> list[str]:
    local = threading.local()

    def one(number: int) -> str:
        if not hasattr(local, "session"):
            local.session = stack.session(user=f"user{number % 5}")
        response = local.session.post(
            f"{stack.url}/v1/inference",
            json={
                "prompt": f"job number {number if number % 10 else 0} of the run",
                "model_preference": "gemma3-270m",
                "max_tokens": 64,
                "priority": ("high", "normal", "low")[number % 3],
                "cache": {"mode": "exact" if number % 10 == 0 else "off"},
            },
            timeout=10,
        )
        assert response.status_code in (200, 202), response.text  # 200: an exact repeat
        progress["accepted"] += 1
        return str(response.json()["id"])

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(one, range(jobs)))


def ended(stack: RealStack, ids: list[str]) -> list[dict[bytes, bytes | None]]:
    """State and result of the jobs that have ended."""
    pipe = stack.redis.pipeline(transaction=False)
    for job_id in ids:
        pipe.hmget(stack.ledger.key("job", job_id), "state", "result")
    found = [dict(zip((b"state", b"result"), row, strict=True)) for row in pipe.execute()]
    return [row for row in found if row[b"state"] in ENDED]


def rows_in_sql(database: Database) -> dict[str, int]:
    with database.session() as session:
        count, distinct, cost, saved, given, made = session.execute(
            select(
                func.count(),
                func.count(func.distinct(UsageRow.job_id)),
                func.coalesce(func.sum(UsageRow.cost_nano), 0),
                func.coalesce(func.sum(UsageRow.saved_nano), 0),
                func.coalesce(func.sum(UsageRow.input_tokens), 0),
                func.coalesce(func.sum(UsageRow.output_tokens), 0),
            )
        ).one()
    names = ("rows", "distinct", "cost_nano", "saved_nano", "input_tokens", "output_tokens")
    return dict(zip(names, map(int, (count, distinct, cost, saved, given, made)), strict=True))


def records_say(rows: list[dict[bytes, bytes | None]]) -> dict[str, int]:
    sums: Counter[str] = Counter(rows=len(rows), distinct=len(rows))
    for row in rows:
        if row[b"result"]:
            result = orjson.loads(row[b"result"])
            sums["cost_nano"] += nano(result["cost"])
            sums["saved_nano"] += nano(result["saved"])
            sums["input_tokens"] += result["usage"]["input_tokens"]
            sums["output_tokens"] += result["usage"]["output_tokens"]
    return dict(sums)


def run(jobs: int, workers: int, folder: Path, server: Server) -> dict[str, Any]:
    database = Database(server.url)
    upgrade(database)
    models = str(priced_catalogue(folder))
    with real_stack(
        folder, "--latency", "0.005", workers=workers, DATABASE_URL=server.url, MODELS_FILE=models
    ) as stack:
        progress: Counter[str] = Counter()
        noted: dict[str, Any] = {}

        def outage() -> None:
            eventually(lambda: progress["accepted"] >= jobs // 3, seconds=120, what="a third in")
            noted["rows_before"] = rows_in_sql(database)["rows"]
            server.stop()
            noted["down_at"] = progress["accepted"]
            down = time.monotonic()
            eventually(lambda: progress["accepted"] >= jobs, seconds=900, what="all accepted")
            eventually(
                lambda: len(ended(stack, ids_done)) >= jobs * 0.9 if ids_done else False,
                seconds=900,
                what="nine tenths of the jobs ended without a database",
                every=1.0,
            )
            noted["ended_while_down"] = len(ended(stack, ids_done))
            server.start()
            noted["down_seconds"] = round(time.monotonic() - down, 1)

        ids_done: list[str] = []
        thread = threading.Thread(target=outage)
        thread.start()
        started = time.monotonic()
        ids = submit_all(stack, jobs, progress)
        ids_done.extend(ids)
        thread.join()
        up_again = time.monotonic()
        eventually(lambda: len(ended(stack, ids)) == jobs, seconds=900, what="all ended", every=1)
        eventually(
            lambda: rows_in_sql(database)["rows"] >= jobs, seconds=120, what="all rows", every=0.5
        )
        caught_up = time.monotonic() - up_again
        records, sql = records_say(ended(stack, ids)), rows_in_sql(database)
        groups: Any = stack.redis.xinfo_groups(stack.ledger.key("ended"))
        database.close()
        return {
            "jobs": jobs,
            **noted,
            "seconds": round(time.monotonic() - started, 1),
            "caught_up_seconds": round(caught_up, 1),
            "records": records,
            "sql": sql,
            "cost_dollars": dollars(sql["cost_nano"]),
            "equal": records == sql,
            "pending": sum(group["pending"] for group in groups),
            "left_in_outbox": stack.redis.xlen(stack.ledger.key("ended")),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_postgres() as server:
        report = run(given.jobs, given.workers, Path(folder), server)
    print(json.dumps(report, indent=2))
    sys.exit(0 if report["equal"] and report["sql"]["rows"] == given.jobs else 1)


if __name__ == "__main__":
    main()
