"""Random faults on the real stack under load, and an audit of the ledger afterwards.

    python -m tests.faults.chaos --seed 1 --seconds 60
    python -m tests.faults.chaos --seed 1 --seconds 60 --no-reconciler   # the control: loses jobs

Kills, freezes and restarts workers, API, beat, both Redis and the provider in an order that the
seed gives. Prints one JSON object. Exit code 1 if a job was lost or an effect was not exactly one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
import requests

from tests.faults.storm import ENDED
from tests.stack import RealStack

CLIENTS = 6
PAUSE = threading.Event()  # never set: only waited on


class Chaos:
    """One run."""

    def __init__(self, stack: RealStack, seed: int, *, reconciler: bool) -> None:
        self.stack = stack
        self.random = random.Random(seed)
        self.reconciler = reconciler
        self.accepted: dict[str, float] = {}
        self.faults: Counter[str] = Counter()
        self.recovery: list[float] = []
        self.over = threading.Event()
        self.lock = threading.Lock()

    # --- load -----------------------------------------------------------------------------

    def client(self, number: int) -> None:
        """Submit, and try again with the same key until accepted, as a client should."""
        session = self.stack.session(user=f"user{number}", tenant=("acme", "blue")[number % 2])
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
                try:
                    answer = session.post(
                        f"{self.stack.url}/v1/inference",
                        json=body,
                        headers={"Idempotency-Key": f"{number}-{count}"},
                        timeout=5,
                    )
                    if answer.status_code in (200, 202):
                        with self.lock:
                            self.accepted[answer.json()["id"]] = time.monotonic()
                        break
                except requests.RequestException:
                    pass
                PAUSE.wait(0.2)
            PAUSE.wait(0.05)

    # --- faults ---------------------------------------------------------------------------

    def kill_worker(self) -> None:
        name = self.random.choice(["worker1", "worker2"])
        held = self._held()
        self.stack.kill(name)
        killed = time.monotonic()
        threading.Thread(target=self._time_recovery, args=(held, killed), daemon=True).start()
        self.stack.start_worker(name, wait=False)

    def kill_worker_in_the_gap(self) -> None:
        """A frozen consumer has taken messages that nobody knows of; then it dies."""
        name = self.random.choice(["worker1", "worker2"])
        self.stack.kill(name, signal.SIGSTOP)
        PAUSE.wait(1.0)
        self.stack.kill(name)
        self.stack.start_worker(name, wait=False)

    def freeze_worker(self) -> None:
        name = self.random.choice(["worker1", "worker2"])
        self.stack.kill(name, signal.SIGSTOP)
        PAUSE.wait(float(self.stack.env.get("LEASE_SECONDS", "8")) + 2)
        self.stack.kill(name, signal.SIGCONT)

    def restart_worker(self) -> None:
        name = self.random.choice(["worker1", "worker2"])
        self.stack.processes[name].terminate()
        self.stack.start_worker(f"{name}", wait=False)

    def kill_api(self) -> None:
        self.stack.kill("api")
        self.stack.start_api()

    def kill_beat(self) -> None:
        self.stack.kill("beat")
        self.stack.start_beat()

    def kill_system(self) -> None:
        self.stack.kill("system")
        self.stack.start_system(wait=False)

    def kill_redis(self) -> None:
        self.stack.kill("redis")
        PAUSE.wait(self.random.uniform(0, 2))
        self.stack.start_redis()

    def kill_cache(self) -> None:
        self.stack.kill("cache")
        PAUSE.wait(self.random.uniform(0, 3))
        self.stack.start_cache_redis()

    def kill_provider(self) -> None:
        self.stack.kill("provider")
        PAUSE.wait(self.random.uniform(0, 2))
        self.stack.start_provider("--latency", "0.1")

    def break_provider(self) -> None:
        mode = self.random.choice(["status", "hang", "cut"])
        url = f"http://127.0.0.1:{self.stack.provider_port}/_behave"
        requests.post(url, json={"mode": mode, "status": 503}, timeout=5)
        PAUSE.wait(2.0)
        requests.post(url, json={"mode": "ok", "latency": 0.1}, timeout=5)

    def _held(self) -> list[str]:
        try:
            prefix = self.stack.settings.key_prefix
            ids = [i.decode() for i in self.stack.redis.zrange(f"{prefix}due", 0, -1)]
            pipe = self.stack.redis.pipeline(transaction=False)
            for job_id in ids:
                pipe.hget(f"{prefix}job:{job_id}", "state")
            found = pipe.execute()
        except redis.RedisError:
            return []
        return [i for i, state in zip(ids, found, strict=True) if state == b"running"]

    def _time_recovery(self, held: list[str], killed: float) -> None:
        """Until the last job that was running at the kill has ended."""
        while held and time.monotonic() < killed + 120:
            with contextlib.suppress(redis.RedisError):
                held = [i for i in held if self._state(i) not in ENDED]
            PAUSE.wait(0.1)
        self.recovery.append(time.monotonic() - killed)

    def _state(self, job_id: str) -> str:
        found = self.stack.redis.hget(f"{self.stack.settings.key_prefix}job:{job_id}", "state")
        return (found or b"").decode()

    # --- the run --------------------------------------------------------------------------

    def run(self, seconds: float) -> dict[str, Any]:
        faults: list[Callable[[], None]] = [
            self.kill_worker, self.kill_worker_in_the_gap, self.freeze_worker,
            self.restart_worker, self.kill_api, self.kill_redis, self.kill_cache,
            self.kill_provider, self.break_provider,
        ]  # fmt: skip
        if self.reconciler:
            faults += [self.kill_beat, self.kill_system]
        clients = [threading.Thread(target=self.client, args=(n,)) for n in range(CLIENTS)]
        for thread in clients:
            thread.start()
        end = time.monotonic() + seconds
        try:
            # Each fault once in random order, then again in another order, until time is up.
            while time.monotonic() < end:
                for fault in self.random.sample(faults, len(faults)):
                    if time.monotonic() >= end:
                        break
                    PAUSE.wait(self.random.uniform(0.2, 1.5))
                    self._supervise()
                    self.faults[fault.__name__] += 1
                    fault()
        finally:
            self.over.set()
            for thread in clients:
                thread.join()
        return self.audit()

    def _supervise(self) -> None:
        """Start again what ended by itself, as any supervisor does."""
        for name in ("worker1", "worker2", "system", "beat"):
            process = self.stack.processes.get(name)
            if process is None or process.poll() is None:
                continue
            if name == "beat":
                self.stack.start_beat()
            elif name == "system":
                self.stack.start_system(wait=False)
            else:
                self.stack.start_worker(name, wait=False)

    def audit(self, seconds: float = 90) -> dict[str, Any]:
        """Wait until all accepted jobs have ended, then count effects."""
        quiet = 25 if not self.reconciler else seconds
        end = time.monotonic() + quiet
        while time.monotonic() < end:
            self._supervise()
            states = [self._state(job_id) for job_id in self.accepted]
            if all(state in ENDED for state in states):
                break
            PAUSE.wait(0.5)
        final = {job_id: self._state(job_id) for job_id in self.accepted}
        name = f"{self.stack.settings.key_prefix}ended"
        ends = Counter(
            fields[b"job"].decode() for _, fields in self.stack.redis.xrange(name, "-", "+")
        )
        lost = [i for i, state in final.items() if state not in ENDED]
        odd = [i for i, state in final.items() if state in ENDED and ends[i] != 1]
        calls = self.stack.provider_calls()["count"]
        recovery = sorted(self.recovery)
        return {
            "accepted": len(self.accepted),
            "lost": len(lost),
            "effects_other_than_one": len(odd),
            "states": dict(Counter(final.values())),
            "faults": dict(self.faults),
            "provider_calls_since_its_last_start": calls,
            "recovery_seconds": {
                "n": len(recovery),
                "p95": round(recovery[int(0.95 * (len(recovery) - 1))], 2) if recovery else None,
                "max": round(recovery[-1], 2) if recovery else None,
            },
        }


def chaos(seed: int, seconds: float, *, reconciler: bool = True) -> dict[str, Any]:
    """One run on a fresh stack."""
    with tempfile.TemporaryDirectory() as folder:
        stack = RealStack(Path(folder), {"PROVIDER_READ_SECONDS": "5", "MAX_WORKERS": "16"}, 2)
        stack.env["CACHE_REDIS_URL"] = stack.cache_url
        try:
            stack.start_redis()
            stack.start_cache_redis()
            stack.start_provider("--latency", "0.1")
            stack.start_api()
            for name in ("worker1", "worker2"):
                stack.start_worker(name)
            if reconciler:
                stack.start_system()
                stack.start_beat()
            run = Chaos(stack, seed, reconciler=reconciler)
            return {"seed": seed, "reconciler": reconciler, **run.run(seconds)}
        finally:
            stack.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--runs", type=int, default=1, help="with this and the next seeds")
    parser.add_argument("--no-reconciler", action="store_true")
    given = parser.parse_args()
    good = True
    for seed in range(given.seed, given.seed + given.runs):
        report = chaos(seed, given.seconds, reconciler=not given.no_reconciler)
        print(json.dumps(report), flush=True)
        good &= report["lost"] == 0 and report["effects_other_than_one"] == 0
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
