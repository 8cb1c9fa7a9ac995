"""A large batch on the real stack, with kills: is every line answered once, and how fast?

    python -m benchmarks.batch --lines 10000 --latency 0.05 --kills --upload-mb 150

Starts Redis, a provider that answers after `--latency`, API, one or more workers, the system
worker and beat. While the batch runs, single high-priority jobs are submitted; with `--kills`,
first a worker and then the API is killed with SIGKILL and started again. With `--again` the same
lines are sent a second time, and all come from the cache. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from tests.stack import RealStack, real_stack

MODEL = "gemma3-270m"


def line(number: int, padding: int, cache: str) -> bytes:
    prompt = f"What is {number} plus {number * 7919}?" + " lorem ipsum" * (padding // 12)
    fields = {
        "custom_id": f"line-{number}",
        "prompt": prompt,
        "model_preference": MODEL,
        "cache": {"mode": cache},
    }
    return json.dumps(fields).encode() + b"\n"


def body(lines: int, padding: int, cache: str) -> Iterator[bytes]:
    """The upload, made as it is sent."""
    for start in range(0, lines, 500):
        yield b"".join(
            line(number, padding, cache) for number in range(start, min(start + 500, lines))
        )


def resident_mb(stack: RealStack, name: str) -> float:
    """Memory of a process and its children."""
    top = stack.processes[name].pid
    family = {top}
    total = 0.0
    stats = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            stats.append((int(folder.name), int(fields[1])))
        except (OSError, IndexError):
            continue
    for _ in range(3):
        family |= {pid for pid, parent in stats if parent in family}
    for pid in family:
        try:
            text = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        for row in text.splitlines():
            if row.startswith("VmRSS:"):
                total += int(row.split()[1]) / 1024
    return round(total, 1)


class HighJobs(threading.Thread):
    """Submits a high-priority job a few times a second, through restarts of the API."""

    def __init__(self, stack: RealStack, tenant: str) -> None:
        super().__init__(daemon=True)
        self.stack, self.session = stack, stack.session(tenant=tenant)
        self.over = threading.Event()
        self.queued_ms: list[int] = []
        self.refused = 0

    def run(self) -> None:
        number = 0
        while not self.over.wait(0.2):
            number += 1
            asked = {
                "prompt": f"Single question {number}",
                "model_preference": MODEL,
                "priority": "high",
                "cache": {"mode": "off"},
            }
            try:
                answer = self.session.post(
                    f"{self.stack.url}/v1/inference?wait=30", json=asked, timeout=40
                )
                self.queued_ms.append(answer.json()["timing"]["queued_ms"])
            except (requests.RequestException, KeyError, ValueError):
                self.refused += 1  # the API was down just then


def measure(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with real_stack(
            folder,
            "--latency",
            str(options.latency),
            workers=options.workers,
            FILES_URL=f"file://{folder}/files",
        ) as stack:
            report: dict[str, Any] = {"lines": options.lines, "workers": options.workers}
            session = stack.session(tenant="bulk")
            # What is made at the first use (prices, by a process of its own) is no growth.
            stack.session(tenant="warm").post(
                f"{stack.url}/v1/batch",
                data=body(1, 0, "exact"),
                headers={"Content-Type": "application/jsonl"},
            ).raise_for_status()
            if options.upload_mb:
                report["upload"] = upload(stack, session, options)
            report |= run(stack, session, options)
            if options.again:
                options.kills = False
                report["again"] = run(stack, session, options)
            return report


def upload(
    stack: RealStack, session: requests.Session, options: argparse.Namespace
) -> dict[str, Any]:
    """Send a large file that is refused at its last line, and watch the API's memory."""
    lines = 40_000
    padding = options.upload_mb * 1_000_000 // lines - 120
    before, peak = resident_mb(stack, "api"), 0.0
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.1):
            peak = max(peak, resident_mb(stack, "api"))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    started = time.monotonic()

    def spoiled() -> Iterator[bytes]:
        yield from body(lines, padding, "exact")
        yield b"not json\n"

    size = sum(len(part) for part in spoiled())
    started = time.monotonic()
    answer = session.post(
        f"{stack.url}/v1/batch",
        data=spoiled(),
        headers={"Content-Type": "application/jsonl"},
        timeout=600,
    )
    seconds = time.monotonic() - started
    over.set()
    watcher.join()
    return {
        "bytes": size,
        "lines": lines + 1,
        "status": answer.status_code,
        "said": answer.json()["detail"],
        "seconds": round(seconds, 1),
        "api_rss_mb_before": before,
        "api_rss_mb_peak": peak,
        "api_rss_mb_after": resident_mb(stack, "api"),
    }


def run(stack: RealStack, session: requests.Session, options: argparse.Namespace) -> dict[str, Any]:
    rss_before = resident_mb(stack, "api")
    started = time.monotonic()
    answer = session.post(
        f"{stack.url}/v1/batch",
        data=body(options.lines, 0, options.cache),
        headers={"Content-Type": "application/jsonl"},
        timeout=600,
    )
    answer.raise_for_status()
    accepted_seconds = time.monotonic() - started
    batch_id = answer.json()["id"]
    calls_before = stack.provider_calls()["count"]
    high = HighJobs(stack, "single")
    high.start()
    kills = ["worker1", "api"] if options.kills else []
    killed: list[dict[str, Any]] = []
    most_open = 0
    state: dict[str, Any] = {}
    pause = threading.Event()
    while not pause.wait(0.2):
        try:
            state = session.get(f"{stack.url}/v1/batch/{batch_id}", timeout=10).json()
        except requests.RequestException:
            continue
        if state["state"] not in ("in_progress", "finalizing"):
            break
        most_open = max(most_open, int(stack.redis.hget("if:open", "bulk") or 0))
        share = state["counts"]["succeeded"] / options.lines
        if kills and share > 0.25 * (len(killed) + 1):
            name = kills.pop(0)
            stack.kill(name)
            if name == "api":
                stack.start_api()
            else:
                stack.start_worker(name, wait=False)
            killed.append({"process": name, "at_lines": state["counts"]["succeeded"]})
        if time.monotonic() - started > options.most_seconds:
            break
    seconds = time.monotonic() - started
    high.over.set()
    high.join()
    results = [
        json.loads(one)
        for one in session.get(f"{stack.url}/v1/batch/{batch_id}/results").iter_lines()
    ]
    answered = Counter(one["custom_id"] for one in results if one["state"] == "succeeded")
    right = sum(
        one["response"]["response"] == json.loads(line(number, 0, options.cache))["prompt"]
        for number, one in enumerate(results)
        if one["response"]
    )
    calls = stack.provider_calls()["count"] - calls_before - len(high.queued_ms)
    waits = sorted(high.queued_ms)
    return {
        "state": state.get("state"),
        "seconds": round(seconds, 1),
        "lines_per_second": round(options.lines / seconds, 1),
        "accept_seconds": round(accepted_seconds, 2),
        "answered_once": sum(count == 1 for count in answered.values()),
        "answered_twice": sum(count > 1 for count in answered.values()),
        "right_answers_in_order": right,
        "lost": options.lines - len(answered),
        "provider_calls_for_lines": calls,
        "kills": killed,
        "most_open_jobs": most_open,
        "api_rss_mb": {"before": rss_before, "after": resident_mb(stack, "api")},
        "high_jobs": {
            "measured": len(waits),
            "api_down": high.refused,
            "queue_wait_ms_p50": statistics.median(waits) if waits else None,
            "queue_wait_ms_p95": waits[int(len(waits) * 0.95)] if waits else None,
            "queue_wait_ms_max": waits[-1] if waits else None,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--latency", type=float, default=0.05, help="of the provider, seconds")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cache", default="exact", choices=["on", "exact", "off"])
    parser.add_argument("--kills", action="store_true")
    parser.add_argument("--upload-mb", type=int, default=0, help="also upload a file of this size")
    parser.add_argument("--again", action="store_true", help="then send it anew: all is cached")
    parser.add_argument("--most-seconds", type=float, default=900)
    print(json.dumps(measure(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()
