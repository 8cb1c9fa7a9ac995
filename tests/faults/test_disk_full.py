"""Disks that are full: a clear refusal, nothing half done, and all is well when there is room.

A process that may write no file beyond a size (RLIMIT_FSIZE) fails as on a full disk.
"""

from __future__ import annotations

import io
import os
import resource
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import redis
import requests

from app.cli.tokens import mint
from app.scopes import ADMIN_SCOPES, PLATFORM
from app.stack.embedded import free_port, redis_command
from tasks.inference import Priority
from tasks.jobs import JobState
from tasks.ledger import Ledger, Limits
from tasks.redis_client import connect
from tests.conftest import wait_for_redis
from tests.ledger.test_ledger import new_job
from tests.stack import RealStack, eventually

pytestmark = pytest.mark.slow

UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
LINE = b'{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {}}\n'


def limit(pid: int, most_bytes: int | None) -> None:
    """Bound the files that a process and its children write; None: no more bound."""
    soft = resource.RLIM_INFINITY if most_bytes is None else most_bytes
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[RealStack]:
    stack = RealStack(tmp_path, {"FILES_URL": f"file://{tmp_path}/files"})
    try:
        stack.start_redis()
        stack.start_api()
        yield stack
    finally:
        stack.stop()


def stored(stack: RealStack) -> list[Path]:
    return [path for path in (stack.folder / "files").rglob("*") if path.is_file()]


def test_a_full_file_store_takes_nothing_by_halves(stack: RealStack) -> None:
    session = stack.session()
    api = stack.processes["api"].pid
    limit(api, 1_000_000)

    def upload(lines: int) -> requests.Response:
        form = {"file": ("lines.jsonl", io.BytesIO(LINE * lines))}
        return session.post(
            f"{stack.url}/v1/files", files=form, data={"purpose": "batch"}, timeout=30
        )

    refused = upload(40_000)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "file_storage_full"
    assert refused.headers["Retry-After"] == "30"
    batch = session.post(
        f"{stack.url}/v1/batch",
        data=b'{"prompt": "a line of a batch"}\n' * 30_000,
        headers={"Content-Type": "application/jsonl"},
        timeout=60,
    )
    assert batch.status_code == 503
    assert batch.json()["type"].endswith(":file-storage-full")
    assert stored(stack) == []
    assert session.get(f"{stack.url}/v1/files", timeout=10).json()["data"] == []
    assert session.get(f"{stack.url}/v1/batch", timeout=10).json()["data"] == []
    # What needs no file goes on.
    job = session.post(f"{stack.url}/v1/inference", json={"prompt": "x"}, timeout=10)
    assert job.status_code == 202

    limit(api, None)
    assert upload(40_000).status_code == 200
    assert len(stored(stack)) == 1


def test_a_full_database_changes_nothing_by_halves(stack: RealStack) -> None:
    token = mint(
        stack.settings, user="root", tenant="platform", role="admin",
        expires=timedelta(hours=1), scopes=ADMIN_SCOPES | {PLATFORM},
    )  # fmt: skip
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {token}"
    tenants = f"{stack.url}/v1/admin/tenants"
    assert session.post(tenants, json={"name": "before"}, timeout=30).status_code == 201
    api = stack.processes["api"].pid
    limit(api, 4_096)
    refused = session.post(tenants, json={"name": "during"}, timeout=30)
    assert refused.status_code == 503
    assert refused.json()["type"].endswith(":accounts-unavailable")
    limit(api, None)
    assert session.post(tenants, json={"name": "after"}, timeout=30).status_code == 201
    names = {row["name"] for row in session.get(tenants, timeout=10).json()["data"]}
    assert {"before", "after"} <= names
    assert "during" not in names
    log = session.get(f"{stack.url}/v1/admin/audit", timeout=10).json()["data"]
    assert "during" not in {entry["subject"] for entry in log}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Ledger, redis.Redis, int]]:
    """A Redis whose append-only file can be stopped from growing."""
    port = free_port()
    # A shell: it ignores the signal that a write beyond the bound sends, and Redis inherits that.
    command = ["sh", "-c", 'trap "" XFSZ; exec "$@"', "sh", *redis_command(port, tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ)
    url = f"redis://127.0.0.1:{port}/0"
    try:
        wait_for_redis(url)
        client = connect(url, timeout=5)
        yield Ledger(client, "disk:"), client, process.pid
        client.close()
    finally:
        process.kill()
        process.wait()


def test_a_full_disk_under_redis_refuses_and_heals(
    small_disk: tuple[Ledger, redis.Redis, int],
) -> None:
    ledger, client, pid = small_disk
    old = [ledger.submit(new_job(), limits=Limits())[0].job.id for _ in range(20)]
    running = ledger.claim(Priority.NORMAL, "w", 60)
    assert running is not None
    limit(pid, 1)

    def refuses() -> bool:
        try:
            ledger.submit(new_job(), limits=Limits())
        except redis.ResponseError as error:
            return "MISCONF" in str(error)
        return False

    eventually(refuses, seconds=10, what="a refusal")
    with pytest.raises(redis.ResponseError):
        ledger.finish(running, JobState.SUCCEEDED, result=b'"answer"')
    assert client.hget(ledger.key("job", running.id), "state") == b"running"

    limit(pid, None)

    def takes() -> bool:
        try:
            return ledger.finish(running, JobState.SUCCEEDED, result=b'"answer"')
        except redis.ResponseError:
            return False

    eventually(takes, seconds=10, what="room again")
    assert [ledger.read(job_id, "acme").job.state.terminal for job_id in old].count(True) == 1
    assert ledger.submit(new_job(), limits=Limits())[1]
