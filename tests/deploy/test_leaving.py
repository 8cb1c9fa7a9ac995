"""An API process that is told to end: who waits in it is let go, each in the way that fits."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tasks.inference import InferenceResponse, Priority, Usage
from tasks.jobs import Job, JobState
from tests.stack import RealStack, eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[RealStack]:
    """An API without workers: no job ends unless the test ends it."""
    stack = RealStack(tmp_path)
    try:
        stack.start_redis()
        stack.start_api()
        yield stack
    finally:
        stack.stop()


def running_jobs(stack: RealStack, count: int) -> list[Job]:
    eventually(
        lambda: stack.ledger.loads()[Priority.NORMAL].ready == count, seconds=30, what="jobs"
    )
    claimed = [stack.ledger.claim(Priority.NORMAL, "test", 120) for _ in range(count)]
    return [job for job in claimed if job is not None]


def answer(stack: RealStack, job: Job) -> None:
    response = InferenceResponse(
        response="at last", provider="local", model="m", finish_reason="stop", latency=1.0,
        tokens_used=2, usage=Usage(input_tokens=1, output_tokens=1), cost=0.0, cache_hit=False,
        request_id=job.request_id, created_at="2026-01-01T00:00:00Z",
    )  # fmt: skip
    assert stack.ledger.finish(job, JobState.SUCCEEDED, result=response.model_dump_json().encode())


def test_sigterm_lets_everybody_go_in_their_own_way(stack: RealStack) -> None:
    session = stack.session()

    def post(path: str, **body: object) -> requests.Response:
        return session.post(f"{stack.url}{path}", json=body, timeout=60)

    def stream(path: str, **body: object) -> bytes:
        with session.post(f"{stack.url}{path}", json=body, timeout=60, stream=True) as response:
            return response.content

    user = [{"role": "user", "content": "hello"}]
    with ThreadPoolExecutor(3) as pool:
        native = pool.submit(post, "/v1/inference?wait=50", prompt="native")
        whole: Future[requests.Response] = pool.submit(
            post, "/v1/chat/completions", model="auto", messages=user
        )
        piecemeal = pool.submit(
            stream, "/v1/chat/completions", model="auto", messages=user, stream=True, seed=1
        )
        jobs = running_jobs(stack, 3)
        api = stack.processes["api"]
        api.send_signal(signal.SIGTERM)

        # It can ask again for its job, at any other process.
        early = native.result(timeout=20)
        assert early.status_code == 202
        assert early.json()["state"] == "running"

        # These can only fail or have their answer, so they are waited for, and not only a moment.
        threading.Event().wait(4)
        assert api.poll() is None
        assert not whole.done()
        assert not piecemeal.done()
        for job in jobs:
            answer(stack, job)
        assert whole.result(timeout=20).json()["choices"][0]["message"]["content"] == "at last"
        assert b"at last" in piecemeal.result(timeout=20)
        assert b"[DONE]" in piecemeal.result()
    assert api.wait(40) == 0
