"""The loss of a Redis primary, with real Redis and Sentinel processes."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from config.settings import settings
from tasks.inference import Priority
from tasks.jobs import JobState
from tasks.ledger import Idempotency, Ledger, Limits, NewJob, NotReplicatedError, new_job_id
from tasks.redis_client import connect
from tasks.replication import Replication
from tests.deploy.redis_farm import SentinelGroup, Server, sentinel_group, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

REPLICATION = Replication(timeout_seconds=0.4)
TENANT = "acme"


@pytest.fixture
def group(tmp_path: Path) -> Iterator[SentinelGroup]:
    with sentinel_group(tmp_path) as started:
        yield started


@pytest.fixture
def key_prefix() -> str:
    return f"failover:{secrets.token_hex(4)}:"


def new_job(key: str = "") -> NewJob:
    return NewJob(
        tenant=TENANT,
        user="ann",
        lane=Priority.NORMAL,
        request=b'{"prompt":"hello"}',
        fingerprint="f",
        request_id="req_1",
        deadline_seconds=300,
        retention_seconds=600,
        max_attempts=5,
        idempotency=Idempotency(key, "h") if key else Idempotency(),
    )


def open_ledger(url: str, prefix: str, *, replicated: bool = True) -> Ledger:
    client = connect(url, timeout=1)
    return Ledger(client, prefix, replication=REPLICATION if replicated else None)


def survivors(group: SentinelGroup, prefix: str) -> set[str]:
    """The jobs that the primary of now knows."""
    found = group.primary().client.zrange(f"{prefix}jobs:{TENANT}", 0, -1)
    return {job.decode() for job in found}


def replica_of(group: SentinelGroup) -> Server:
    primary = group.primary()
    return next(server for server in group.servers if server is not primary)


def await_promotion(group: SentinelGroup) -> None:
    """Wait until the Sentinels name a primary that is alive and says so itself."""
    wait_until(
        lambda: (
            group.primary().process.poll() is None and group.primary().client.role()[0] == b"master"
        ),
        30,
        "the replica has taken the primary's place",
    )


def test_no_acceptance_without_the_replica(group: SentinelGroup, key_prefix: str) -> None:
    ledger, job = open_ledger(group.url, key_prefix), new_job("key")
    replica_of(group).freeze()
    with pytest.raises(NotReplicatedError) as first:
        ledger.submit(job, limits=Limits())
    # The repeated call writes nothing new, and yet must not be taken for safe.
    with pytest.raises(NotReplicatedError) as second:
        ledger.submit(job, limits=Limits())
    assert first.value.job_id == second.value.job_id
    replica_of(group).thaw()
    wait_until(group.replicated, 20, "the replica is back")

    def accepted() -> bool:
        try:
            snapshot, created = ledger.submit(job, limits=Limits())
        except NotReplicatedError:
            return False
        return snapshot.job.id == first.value.job_id and not created

    wait_until(accepted, 20, "the repeated call is accepted, as the same job")


@pytest.mark.parametrize("replicated", [True, False])
def test_what_a_failover_with_a_lagging_replica_loses(
    group: SentinelGroup, key_prefix: str, replicated: bool
) -> None:
    """Without `replicated`, acceptance does not wait for the copy: then these jobs are lost."""
    ledger = open_ledger(group.url, key_prefix, replicated=replicated)
    safe = {ledger.submit(new_job(), limits=Limits())[0].job.id for _ in range(20)}
    wait_until(lambda: replica_has(group, key_prefix, safe), 10, "the replica has the first jobs")
    # Cut the link too: what waits in a frozen replica's socket would still reach it.
    replica_of(group).freeze()
    group.primary().client.execute_command("CLIENT", "KILL", "TYPE", "replica")
    accepted = set()
    for _ in range(3):
        try:
            accepted.add(ledger.submit(new_job(), limits=Limits())[0].job.id)
        except NotReplicatedError:
            continue
    replica = replica_of(group)
    group.primary().kill()
    replica.thaw()
    await_promotion(group)
    known = survivors(group, key_prefix)
    assert safe <= known
    assert len(accepted) == (0 if replicated else 3)
    assert accepted - known == accepted, "nothing of what only the dead primary had"


def replica_has(group: SentinelGroup, prefix: str, jobs: set[str]) -> bool:
    client = replica_of(group).client
    return {job.decode() for job in client.zrange(f"{prefix}jobs:{TENANT}", 0, -1)} >= jobs


@dataclass
class Load:
    """Clients that submit as fast as they are answered, and repeat what was not accepted."""

    url: str
    prefix: str
    accepted: list[str] = field(default_factory=list)
    refused: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def _submit(self) -> None:
        ledger = open_ledger(self.url, self.prefix)
        pause = threading.Event()
        while not self._stop.is_set():
            key, job_id = secrets.token_hex(8), new_job_id()
            while True:
                try:
                    accepted, _ = ledger.submit(new_job(key), limits=Limits(), job_id=job_id)
                except (redis.RedisError, NotReplicatedError):
                    with self._lock:
                        self.refused += 1
                    pause.wait(0.05)
                    continue
                with self._lock:
                    self.accepted.append(accepted.job.id)
                break
            pause.wait(0.002)

    @contextmanager
    def running(self, clients: int) -> Iterator[None]:
        threads = [threading.Thread(target=self._submit) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()


@contextmanager
def celery_worker(url: str, prefix: str, log: Path) -> Iterator[None]:
    """A Celery worker that is started again when it ends, as every supervisor does."""
    command = [
        sys.executable, "-m", "celery", "-A", "tests.deploy.sentinel_worker", "worker",
        "--pool", "threads", "--concurrency", "8", "--without-gossip", "--without-mingle",
        "--queues", "inference.high,inference.normal,inference.low",
    ]  # fmt: skip
    environment = {**os.environ, "REDIS_URL": url, "KEY_PREFIX": prefix, "LOG_LEVEL": "INFO"}
    stop = threading.Event()
    current: list[subprocess.Popen[bytes]] = []

    def supervise() -> None:
        with log.open("ab") as output:
            while not stop.is_set():
                current[:] = [
                    subprocess.Popen(command, env=environment, stdout=output, stderr=output)
                ]
                current[0].wait()

    thread = threading.Thread(target=supervise)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        current[0].kill()
        thread.join()


@contextmanager
def sweeping(ledger: Ledger) -> Iterator[None]:
    """The reconciler, every 0.2 s."""
    stop = threading.Event()

    def sweep() -> None:
        while not stop.wait(0.2):
            try:
                ledger.sweep()
            except redis.RedisError:
                continue

    thread = threading.Thread(target=sweep)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_failover_under_load_loses_no_accepted_job(
    group: SentinelGroup, key_prefix: str, tmp_path: Path
) -> None:
    settings.cache_clear()
    load = Load(group.url, key_prefix)
    ledger = open_ledger(group.url, key_prefix)
    log = tmp_path / "worker.log"
    with celery_worker(group.url, key_prefix, log), sweeping(ledger):
        with load.running(clients=8):
            wait_until(lambda: len(load.accepted) > 300, 60, "300 jobs are accepted")
            group.primary().kill()
            await_promotion(group)
            before = len(load.accepted)
            # One server is left: nothing is accepted until the old one is back as its replica.
            dead = next(server for server in group.servers if server is not group.primary())
            dead.start()
            wait_until(lambda: len(load.accepted) > before + 300, 60, "300 more after the failover")
        lost = set(load.accepted) - survivors(group, key_prefix)
        assert not lost
        assert load.refused > 0, "the failover was felt"
        assert len(set(load.accepted)) == len(load.accepted)

        def all_ended() -> bool:
            client = group.primary().client.pipeline(transaction=False)
            for job in load.accepted:
                client.hget(f"{key_prefix}job:{job}", "state")
            return all(state == JobState.SUCCEEDED.value.encode() for state in client.execute())

        wait_until(all_ended, 60, "every accepted job has ended; " + log.read_text()[-2000:])
