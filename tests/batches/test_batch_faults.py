"""A batch whose workers, API and housekeeping are killed: every line is answered once."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.batches.test_batches import jsonl, line
from tests.stack import RealStack, eventually, real_stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

LINES = 500


def progress(stack: RealStack, session: requests.Session, batch_id: str) -> dict[str, Any]:
    with contextlib.suppress(requests.RequestException, ValueError):
        view: dict[str, Any] = session.get(f"{stack.url}/v1/batch/{batch_id}", timeout=10).json()
        return view
    return {"state": "unknown", "counts": {"succeeded": 0}}


def test_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    with real_stack(
        tmp_path,
        "--latency",
        "0.05",
        FILES_URL=f"file://{tmp_path}/files",
        LEASE_SECONDS="4",
        BATCH_SLICE_LINES="50",
        BATCH_OPEN_LINES="150",
    ) as stack:
        session = stack.session(tenant="storm")
        lines = [line(number) for number in range(LINES)]
        lines += [line(LINES + n, prompt=lines[n]["prompt"], cache={"mode": "exact"})
                  for n in range(20)]  # fmt: skip
        answer = session.post(
            f"{stack.url}/v1/batch",
            data=jsonl(lines),
            headers={"Content-Type": "application/jsonl"},
        )
        assert answer.status_code == 202
        batch_id = answer.json()["id"]

        for name, share in (("worker1", 0.1), ("system", 0.3), ("api", 0.5), ("worker1", 0.7)):
            eventually(
                lambda share=share: (
                    progress(stack, session, batch_id)["counts"]["succeeded"] >= LINES * share
                ),
                seconds=120,
                what=f"{share:.0%} of the lines",
            )
            stack.kill(name)
            if name == "api":
                stack.start_api()
            elif name == "system":
                stack.start_system(wait=False)
            else:
                stack.start_worker(name, wait=False)
        eventually(
            lambda: progress(stack, session, batch_id)["state"] == "completed",
            seconds=180,
            what="the end of the batch",
        )

        found = [
            json.loads(one)
            for one in session.get(f"{stack.url}/v1/batch/{batch_id}/results").iter_lines()
        ]
        assert [one["custom_id"] for one in found] == [one["custom_id"] for one in lines]
        assert Counter(one["state"] for one in found) == {"succeeded": len(lines)}
        assert [one["response"]["response"] for one in found] == [one["prompt"] for one in lines]
        counts = progress(stack, session, batch_id)["counts"]
        assert (counts["succeeded"], counts["open"]) == (len(lines), 0)
        events = stack.redis.xrange("if:events")
        assert [fields[b"type"] for _, fields in events] == [b"batch.completed"]
        assert stack.redis.hgetall("if:open") == {}


def test_a_lost_callback_and_a_window_that_ends(tmp_path: Path) -> None:
    with real_stack(tmp_path, "--latency", "0.3", FILES_URL=f"file://{tmp_path}/files") as stack:
        session = stack.session(tenant="window")
        # No housekeeping: the callback waits in its queue, and is lost with it.
        batch_id = session.post(
            f"{stack.url}/v1/batch",
            data=jsonl([line(number) for number in range(3)]),
            headers={"Content-Type": "application/jsonl"},
        ).json()["id"]
        eventually(
            lambda: (
                stack.redis.scard(f"if:batch:{batch_id}:open") > 0
                or progress(stack, session, batch_id)["counts"]["succeeded"] > 0
            ),
            seconds=60,
            what="jobs of the batch",
        )
        stack.kill("system")
        eventually(
            lambda: progress(stack, session, batch_id)["state"] in ("finalizing", "completed"),
            seconds=60,
            what="all lines",
        )
        stack.redis.delete("if:broker:system")
        stack.start_system()
        eventually(
            lambda: progress(stack, session, batch_id)["state"] == "completed",
            seconds=60,
            what="the end without its callback",
        )

        late = session.post(
            f"{stack.url}/v1/batch",
            params={"completion_window": "5m"},
            data=jsonl([line(number) for number in range(900)]),
            headers={"Content-Type": "application/jsonl"},
        ).json()["id"]
        eventually(
            lambda: progress(stack, session, late)["counts"]["succeeded"] >= 5,
            seconds=60,
            what="some lines",
        )
        # As if five minutes had passed.
        stack.redis.zadd("if:batches:open", {late: 1})
        eventually(
            lambda: progress(stack, session, late)["state"] == "expired", seconds=60, what="the end"
        )
        counts = progress(stack, session, late)["counts"]
        assert counts["succeeded"] >= 5
        assert counts["succeeded"] + counts["expired"] == 900
        assert counts["expired"] > 0
