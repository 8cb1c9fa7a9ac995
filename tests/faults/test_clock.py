"""Processes whose own clocks are wrong, or jump."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from app.beat import ClockWatch
from tasks.files import FileStore
from tasks.jobs import JobState
from tests.stack import ROOT, RealStack, eventually

pytestmark = pytest.mark.slow

# Debian's package libfaketime.
LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
if LIBRARY is None and not os.environ.get("CI"):
    pytest.skip("libfaketime is not installed", allow_module_level=True)


def wrong_clock(shift: str) -> dict[str, str]:
    """The environment of a process whose clock of the day is off by `shift` (as `+1d`)."""
    assert LIBRARY is not None
    return {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME": shift,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent / "wrong_clock")]),
    }


class SkewedStack(RealStack):
    """Every worker believes in another day."""

    shifts = {"worker1": "+1d", "worker2": "-1d", "system": "+40d"}  # noqa: RUF012

    def spawn(self, name: str, command: list[str], **env: str) -> subprocess.Popen[bytes]:
        if name in self.shifts:
            env |= wrong_clock(self.shifts[name])
        return super().spawn(name, command, **env)


def test_workers_whose_clocks_are_days_off(tmp_path: Path) -> None:
    stack = SkewedStack(tmp_path, {"LEASE_SECONDS": "2", "MAX_WORKERS": "4"})
    try:
        stack.start("--latency", "1.0")  # one worker: a day ahead
        session = stack.session()

        def submit(prompt: str) -> str:
            answer = session.post(
                f"{stack.url}/v1/inference",
                json={"prompt": prompt, "cache": {"mode": "off"}, "deadline_seconds": 120},
                timeout=10,
            )
            assert answer.status_code == 202
            return str(answer.json()["id"])

        ids = [submit(f"ahead {n}") for n in range(8)]
        eventually(
            lambda: any(stack.ledger.read(i, "acme").job.state is JobState.RUNNING for i in ids),
            seconds=30,
            what="a running job",
        )
        # The reconciler is forty days ahead, beat is not: its ticks must be heard all the same.
        stack.kill("worker1")
        stack.start_worker("worker2", wait=False)
        eventually(
            lambda: all(stack.ledger.read(i, "acme").job.state.terminal for i in ids),
            seconds=60,
            what="the end of all jobs",
        )
        for job_id in ids:
            job = stack.ledger.read(job_id, "acme").job
            assert job.state is JobState.SUCCEEDED
            assert 0 <= job.queued_ms < 60_000
            assert job.total_ms is not None
            assert 0 <= job.total_ms < 90_000
    finally:
        stack.stop()


def test_a_process_ahead_of_time_purges_nothing(
    redis_url: str, redis_client: redis.Redis, prefix: str, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/files"
    store = FileStore(redis_client, prefix, url)
    with store.writing("acme", filename="a", purpose="batch", keep_seconds=3600) as new:
        new.sink.write(b"kept")
    purge = (
        "import sys; from tasks.files import FileStore; from tasks.redis_client import connect;"
        "print(FileStore(connect(sys.argv[1]), sys.argv[2], sys.argv[3]).purge_expired())"
    )
    done = subprocess.run(
        [sys.executable, "-c", purge, redis_url, prefix, url],
        env={**os.environ, **wrong_clock("+40d")},
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout.strip() == "0", done.stderr
    assert b"".join(store.chunks(store.get(new.id, "acme"))) == b"kept"


def test_beat_sees_a_clock_that_was_set() -> None:
    """Its schedule goes by the clock of the day. The clocks here are given, not the machine's."""
    wall, steady = [1000.0], [50.0]
    watch = ClockWatch(lambda: wall[0], lambda: steady[0])

    def later(seconds: float, by_the_clock: float) -> float:
        steady[0] += seconds
        wall[0] += by_the_clock
        return watch.jump()

    assert later(4, 4.0) == 0
    assert later(4, 5.5) == 0  # a clock that is being corrected
    assert later(4, -3596) == -3600
    assert later(4, 4) == 0
    assert later(4, 3604) == 3600
