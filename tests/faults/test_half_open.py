"""Connections to Redis that are dead without anybody having said so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.jobs import JobState
from tests.freezing_proxy import FreezingProxy
from tests.stack import RealStack, eventually

pytestmark = pytest.mark.slow

# Measured: 11 s; 48 s without health checks.
WITHIN_SECONDS = 30


def succeeds(stack: RealStack, prompt: str, seconds: float) -> None:
    answer = stack.session().post(
        f"{stack.url}/v1/inference",
        json={"prompt": prompt, "cache": {"mode": "off"}},
        timeout=10,
    )
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    eventually(
        lambda: stack.ledger.read(job_id, "acme").job.state is JobState.SUCCEEDED,
        seconds=seconds,
        what=f"the end of {prompt}",
    )


def test_a_worker_consumes_again_after_its_connections_died(tmp_path: Path) -> None:
    stack = RealStack(tmp_path)
    with FreezingProxy(stack.redis_port) as proxy:
        try:
            stack.start_redis()
            stack.start_provider()
            stack.start_api()
            stack.start_system()
            stack.start_beat()
            direct = stack.env["REDIS_URL"]
            stack.env["REDIS_URL"] = f"redis://127.0.0.1:{proxy.port}/0"
            stack.start_worker("worker1")
            stack.env["REDIS_URL"] = direct
            succeeds(stack, "before", 30)
            worker = stack.processes["worker1"]
            proxy.forget()
            succeeds(stack, "after", WITHIN_SECONDS)
            assert worker.poll() is None, "by itself, not by a restart"
        finally:
            stack.stop()
