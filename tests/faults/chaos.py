"""Random faults on the real stack under load, and an audit of the ledger afterwards.

    python -m tests.faults.chaos --seed 1 --seconds 60 --runs 10
    python -m tests.faults.chaos --seed 1 --seconds 60 --no-reconciler   # the control: loses jobs

Kills, freezes and restarts workers, API, beat, housekeeping, both Redis, the provider and the
webhook receiver in an order that the seed gives. Prints one JSON object a run. Exit code 1 if
anything was lost or an effect was not exactly one (the control: if nothing was lost).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from app.stack.embedded import free_port
from tasks.deliveries import delivery_id
from tests.faults.storm import ENDED, held_by, recovery_report, time_recoveries
from tests.stack import RealStack, eventually

CLIENTS = 6
BATCH_LINES = 200
LATENCY = ("--latency", "0.1")
TENANTS = ("acme", "blue")
WORKERS = ("worker1", "worker2")
PAUSE = threading.Event()  # never set: only waited on


class Chaos:
    """One run."""

    def __init__(self, stack: RealStack, seed: int, *, reconciler: bool) -> None:
        self.stack = stack
        self.random = random.Random(seed)
        self.reconciler = reconciler
        self.accepted: dict[str, str] = {}  # job -> prompt
        self.batch = ""
        self.endpoints: dict[str, str] = {}  # tenant -> webhook endpoint
        self.faults: Counter[str] = Counter()
        self.orphaned = 0  # jobs that a worker held when it was killed
        self.recovery: list[float] = []
        self.watches: list[threading.Thread] = []
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.received = stack.folder / "received.jsonl"
        self.answered = stack.folder / "answered.jsonl"
        self.hooks_port = free_port()

    # --- the stack ------------------------------------------------------------------------

    def begin(self) -> None:
        """Start everything."""
        self.stack.start_redis()
        self.stack.start_cache_redis()
        # A follower that never reads: so nothing is trimmed from what the audit counts.
        self.stack.redis.xgroup_create(self.key("ended"), "audit", id="0", mkstream=True)
        self.start_provider()
        self.start_hooks()
        self.stack.start_api()
        for name in WORKERS:
            self.stack.start_worker(name, wait=False)
        if self.reconciler:
            self.stack.start_webhooks(wait=False)
            self.stack.start_system(wait=False)
            self.stack.start_beat()
        for name in (*WORKERS, *(("webhooks", "system") if self.reconciler else ())):
            heart = self.stack.folder / f"{name}.heart"
            eventually(heart.exists, seconds=90, what=f"{name} ready", every=0.25)
        for tenant in TENANTS:
            made = self.stack.session(tenant=tenant).post(
                f"{self.stack.url}/v1/webhooks",
                json={"url": f"http://127.0.0.1:{self.hooks_port}/{tenant}"},
                timeout=10,
            )
            self.endpoints[tenant] = made.json()["id"]

    def start_provider(self) -> None:
        self.stack.start_provider(*LATENCY, "--log", str(self.answered))

    def start_hooks(self) -> None:
        command = [sys.executable, "-m", "tests.faults.hooks", "--port", str(self.hooks_port)]
        self.stack.spawn("hooks", [*command, "--log", str(self.received)])

    # --- load -----------------------------------------------------------------------------

    def client(self, number: int) -> None:
        """Submit, and try again with the same key until accepted, as a client should."""
        session = self.stack.session(user=f"user{number}", tenant=TENANTS[number % 2])
        count = 0
        while not self.over.is_set():
            count += 1
            body = {
                "prompt": f"chaos {number}/{count}",
                "priority": ("high", "normal", "low")[count % 3],
                "deadline_seconds": 600,
                "cache": {"mode": "off" if count % 2 else "on"},
            }
            while not self.over.is_set():
                with contextlib.suppress(requests.RequestException):
                    answer = session.post(
                        f"{self.stack.url}/v1/inference",
                        json=body,
                        headers={"Idempotency-Key": f"{number}-{count}"},
                        timeout=5,
                    )
                    if answer.status_code in (200, 202):
                        with self.lock:
                            self.accepted[answer.json()["id"]] = str(body["prompt"])
                        break
                PAUSE.wait(0.2)
            PAUSE.wait(0.05)

    def submit_batch(self) -> None:
        """A batch whose members share the faults of the single jobs."""
        lines = [
            {"prompt": f"chaos batch/{n}", "cache": {"mode": "off"}} for n in range(BATCH_LINES)
        ]
        answer = self.stack.session(tenant="batches").post(
            f"{self.stack.url}/v1/batch", json=lines, timeout=30
        )
        assert answer.status_code == 202, answer.text
        self.batch = answer.json()["id"]

    # --- faults ---------------------------------------------------------------------------

    def a_worker(self) -> str:
        return self.random.choice(WORKERS)

    def kill_worker(self) -> None:
        name = self.a_worker()
        held = held_by(self.stack, name)
        self.stack.kill(name)
        self.orphaned += len(held)
        watch = threading.Thread(
            target=time_recoveries, args=(self.stack, held, time.monotonic(), self.recovery)
        )
        watch.start()
        self.watches.append(watch)
        self.stack.start_worker(name, wait=False)

    def kill_worker_in_the_gap(self) -> None:
        """A frozen consumer has taken messages that nobody knows of; then it dies."""
        name = self.a_worker()
        self.stack.kill(name, signal.SIGSTOP)
        PAUSE.wait(1.0)
        self.stack.kill(name)
        self.stack.start_worker(name, wait=False)

    def freeze_worker(self) -> None:
        self._freeze(self.a_worker(), float(self.stack.settings.lease_seconds) + 2)

    def restart_worker(self) -> None:
        """A rolling update: the new one starts while the old one drains."""
        name = self.a_worker()
        old = self.stack.processes[name]
        old.terminate()
        self.faults["restarted under way"] += 1
        self.stack.processes[f"{name}, leaving {self.faults['restarted under way']}"] = old
        self.stack.start_worker(name, wait=False)

    def kill_api(self) -> None:
        self.stack.kill("api")
        self.stack.start_api()

    def freeze_api(self) -> None:
        self._freeze("api", self.random.uniform(1, 4))

    def restart_api(self) -> None:
        self._stop("api")
        self.stack.start_api()

    def kill_beat(self) -> None:
        self.stack.kill("beat")
        self.stack.start_beat()

    def freeze_beat(self) -> None:
        self._freeze("beat", self.random.uniform(1, 4))

    def kill_system(self) -> None:
        self.stack.kill("system")
        self.stack.start_system(wait=False)

    def freeze_system(self) -> None:
        self._freeze("system", self.random.uniform(1, 4))

    def kill_webhooks(self) -> None:
        self.stack.kill("webhooks")
        self.stack.start_webhooks(wait=False)

    def kill_redis(self) -> None:
        self.stack.kill("redis")
        PAUSE.wait(self.random.uniform(0, 2))
        self.stack.start_redis()

    def freeze_redis(self) -> None:
        self._freeze("redis", self.random.uniform(1, 6))

    def restart_redis(self) -> None:
        self._stop("redis")
        self.stack.start_redis()

    def kill_cache(self) -> None:
        self.stack.kill("cache")
        PAUSE.wait(self.random.uniform(0, 3))
        self.stack.start_cache_redis()

    def freeze_cache(self) -> None:
        self._freeze("cache", self.random.uniform(1, 4))

    def kill_provider(self) -> None:
        self.stack.kill("provider")
        PAUSE.wait(self.random.uniform(0, 2))
        self.start_provider()

    def freeze_provider(self) -> None:
        self._freeze("provider", self.random.uniform(1, 7))

    def break_provider(self) -> None:
        mode = self.random.choice(["status", "hang", "cut", "empty"])
        url = f"http://127.0.0.1:{self.stack.provider_port}/_behave"
        requests.post(url, json={"mode": mode, "status": 503}, timeout=5)
        PAUSE.wait(2.0)
        requests.post(url, json={"mode": "ok", "latency": 0.1}, timeout=5)

    def kill_hooks(self) -> None:
        self.stack.kill("hooks")
        PAUSE.wait(self.random.uniform(0, 2))
        self.start_hooks()

    def freeze_hooks(self) -> None:
        self._freeze("hooks", self.random.uniform(1, 4))

    def _freeze(self, name: str, seconds: float) -> None:
        self.stack.kill(name, signal.SIGSTOP)
        PAUSE.wait(seconds)
        self.stack.kill(name, signal.SIGCONT)

    def _stop(self, name: str) -> None:
        self.stack.processes[name].terminate()
        self.stack.processes[name].wait(60)

    def possible(self) -> list[Callable[[], None]]:
        """The faults of this run."""
        faults: list[Callable[[], None]] = [
            self.kill_worker, self.kill_worker, self.kill_worker, self.kill_worker_in_the_gap,
            self.freeze_worker, self.restart_worker,
            self.kill_api, self.freeze_api, self.restart_api,
            self.kill_redis, self.freeze_redis, self.restart_redis,
            self.kill_cache, self.freeze_cache,
            self.kill_provider, self.freeze_provider, self.break_provider,
        ]  # fmt: skip
        if self.reconciler:
            faults += [
                self.kill_beat, self.freeze_beat, self.kill_system, self.freeze_system,
                self.kill_webhooks, self.kill_hooks, self.freeze_hooks,
            ]  # fmt: skip
        return faults

    # --- the run --------------------------------------------------------------------------

    def run(self, seconds: float) -> dict[str, Any]:
        faults = self.possible()
        if self.reconciler:
            self.submit_batch()
        clients = [threading.Thread(target=self.client, args=(n,)) for n in range(CLIENTS)]
        for thread in clients:
            thread.start()
        end = time.monotonic() + seconds
        try:
            # Each fault once in random order, then again in another order, until time is up.
            while not self.enough(end):
                for fault in self.random.sample(faults, len(faults)):
                    if self.enough(end):
                        break
                    PAUSE.wait(self.random.uniform(0.2, 1.5))
                    self.supervise()
                    self.faults[fault.__name__] += 1
                    fault()
        finally:
            self.over.set()
            for thread in clients:
                thread.join()
        return self.audit()

    def enough(self, end: float) -> bool:
        """Whether time is up. The control needs jobs to lose: it gets a minute more for that."""
        over = time.monotonic() - end
        return over >= 0 and (self.reconciler or self.orphaned > 0 or over >= 60)

    def supervise(self) -> None:
        """Start again what ended by itself, as any supervisor does."""
        starts: dict[str, Callable[[], None]] = {
            "system": lambda: self.stack.start_system(wait=False),
            "webhooks": lambda: self.stack.start_webhooks(wait=False),
            "beat": self.stack.start_beat,
            "api": self.stack.start_api,
            "worker1": lambda: self.stack.start_worker("worker1", wait=False),
            "worker2": lambda: self.stack.start_worker("worker2", wait=False),
        }
        for name, start in starts.items():
            process = self.stack.processes.get(name)
            if process is not None and process.poll() is not None:
                self.faults[f"{name} ended by itself"] += 1
                start()

    def key(self, *parts: str) -> str:
        return self.stack.ledger.key(*parts)

    def states(self) -> dict[str, str]:
        """The state of every accepted job."""
        pipe = self.stack.redis.pipeline(transaction=False)
        for job_id in self.accepted:
            pipe.hget(self.key("job", job_id), "state")
        found = pipe.execute()
        return {i: (s or b"gone").decode() for i, s in zip(self.accepted, found, strict=True)}

    def batch_state(self) -> str:
        if not self.batch:
            return "none"
        return (self.stack.redis.hget(self.key("batch", self.batch), "state") or b"gone").decode()

    def audit(self, seconds: float = 90) -> dict[str, Any]:
        """Wait until all that was accepted has ended, then count effects."""
        end = time.monotonic() + (seconds if self.reconciler else 25)
        while time.monotonic() < end:
            self.supervise()
            settled = all(state in ENDED for state in self.states().values())
            if settled and self.batch_state() in ("none", "completed"):
                break
            PAUSE.wait(0.5)
        for watch in self.watches:
            watch.join()
        final = self.states()
        entries = self.stack.redis.xrange(self.key("ended"), "-", "+")
        ends = Counter(fields[b"job"].decode() for _, fields in entries)
        lost = [i for i, state in final.items() if state not in ENDED]
        odd = [i for i, state in final.items() if state in ENDED and ends[i] != 1]
        odd += [i for i, count in ends.items() if count > 1 and i not in final]
        answered = Counter(_lines(self.answered))
        report = {
            "accepted": len(self.accepted),
            "lost": len(lost),
            "effects_other_than_one": len(odd),
            "states": dict(Counter(final.values())),
            "provider_calls": {
                "answered": answered.total(),
                "duplicates": sum(count - 1 for count in answered.values()),
            },
            "faults": dict(sorted(self.faults.items())),
            "recovery_seconds": recovery_report(self.recovery),
        }
        if self.reconciler:
            report["batch"] = self._audit_batch()
            report["webhooks"] = self._audit_webhooks(entries)
            report["usage"] = self._audit_usage(set(ends))
        return report

    def _audit_batch(self) -> dict[str, Any]:
        record = self.stack.redis.hgetall(self.key("batch", self.batch))
        events = self.stack.redis.xrange(self.key("events"), "-", "+")
        closed = [f for _, f in events if f.get(b"subject") == self.batch.encode()]
        succeeded = int(record[b"succeeded"])
        return {
            "lines": BATCH_LINES,
            "state": self.batch_state(),
            "ended": succeeded + int(record[b"failed"]) + int(record[b"expired"]),
            "closed": len(closed),
        }

    def _audit_webhooks(self, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> dict[str, int]:
        """Every end of a job is one event with one id, arrived or still to be sent."""
        ids: defaultdict[str, set[str]] = defaultdict(set)
        for hook, _, job in _lines(self.received):
            ids[job].add(hook)
        wanted = {}
        for entry, fields in entries:
            endpoint = self.endpoints.get(fields[b"tenant"].decode())
            if endpoint and not fields.get(b"batch"):
                wanted[fields[b"job"].decode()] = delivery_id(f"ended-{entry.decode()}", endpoint)

        def missing() -> list[str]:
            absent = [hook for job, hook in wanted.items() if hook not in ids[job]]
            pipe = self.stack.redis.pipeline(transaction=False)
            for hook in absent:
                pipe.exists(self.key("hook:delivery", hook))
            return [h for h, there in zip(absent, pipe.execute(), strict=True) if not there]

        with contextlib.suppress(AssertionError):  # what is missing then is in the report
            eventually(lambda: not missing(), seconds=45, what="all events noted", every=0.5)
        return {
            "events": len(wanted),
            "arrived": sum(hook in ids[job] for job, hook in wanted.items()),
            "missing": len(missing()),
            "other_ids": sum(bool(ids[job] - {hook}) for job, hook in wanted.items()),
        }

    def _audit_usage(self, ended: set[str]) -> dict[str, int]:
        """Every end of a job is a row in SQL."""
        path = self.stack.env["DATABASE_URL"].removeprefix("sqlite:///")

        def rows() -> set[str]:
            with contextlib.closing(sqlite3.connect(path, timeout=10)) as database:
                return {row[0] for row in database.execute("select job_id from usage")}

        with contextlib.suppress(AssertionError):  # what is missing then is in the report
            eventually(lambda: ended <= rows(), seconds=45, what="all rows", every=0.5)
        return {"rows": len(rows()), "missing": len(ended - rows())}


def _lines(path: Path) -> list[Any]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def good(report: dict[str, Any]) -> bool:
    """Whether nothing was lost and nothing doubled."""
    batch, hooks = report["batch"], report["webhooks"]
    return (
        report["lost"] == report["effects_other_than_one"] == 0
        and (batch["state"], batch["ended"], batch["closed"]) == ("completed", BATCH_LINES, 1)
        and hooks["missing"] == hooks["other_ids"] == report["usage"]["missing"] == 0
    )


def chaos(
    seed: int, seconds: float, *, reconciler: bool = True, keep: Path | None = None
) -> dict[str, Any]:
    """One run on a fresh stack; `keep`: a folder for logs and data, or None."""
    with contextlib.ExitStack() as cleanup:
        folder = keep or Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        stack = RealStack(
            folder,
            {
                "PROVIDER_READ_SECONDS": "5",
                "MAX_WORKERS": "16",
                "WEBHOOK_ALLOW_HOSTS": "127.0.0.1",
                "WEBHOOK_TIMEOUT_SECONDS": "3",
                "FILES_URL": f"file://{folder}/files",
                "BATCH_SLICE_LINES": "20",
                "BATCH_OPEN_LINES": "60",
            },
            2,
        )
        stack.env["CACHE_REDIS_URL"] = stack.cache_url
        cleanup.callback(stack.stop)
        run = Chaos(stack, seed, reconciler=reconciler)
        run.begin()
        return {"seed": seed, "seconds": seconds, "reconciler": reconciler, **run.run(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--runs", type=int, default=1, help="with this and the next seeds")
    parser.add_argument("--no-reconciler", action="store_true")
    parser.add_argument("--out", type=Path, help="file that each report is added to, as JSON lines")
    parser.add_argument("--keep", type=Path, help="folder that keeps logs and data of every run")
    given = parser.parse_args()
    passed = True
    for seed in range(given.seed, given.seed + given.runs):
        keep = None
        if given.keep:
            keep = given.keep.resolve() / str(seed)
            keep.mkdir(parents=True)
        report = chaos(seed, given.seconds, reconciler=not given.no_reconciler, keep=keep)
        print(json.dumps(report), flush=True)
        if given.out:
            given.out.parent.mkdir(parents=True, exist_ok=True)
            with given.out.open("a") as out:
                out.write(json.dumps(report) + "\n")
        passed &= report["lost"] > 0 if given.no_reconciler else good(report)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
