"""Workers that die, freeze and come back, on the real stack."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from app.stack.embedded import free_port
from app.stack.processes import api_command
from tasks.jobs import JobState
from tests.stack import RealStack, eventually, real_stack

pytestmark = pytest.mark.slow

LEASE_SECONDS = 2.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealStack]:
    with real_stack(
        tmp_path_factory.mktemp("stack"),
        LEASE_SECONDS=str(LEASE_SECONDS),
        MAX_WORKERS="8",
        PROVIDER_READ_SECONDS="120",  # only a cancellation frees what hangs
    ) as running:
        yield running


def behave(stack: RealStack, **behaviour: object) -> None:
    answer = requests.post(
        f"http://127.0.0.1:{stack.provider_port}/_behave", json=behaviour, timeout=5
    )
    assert answer.ok


def submit(stack: RealStack, prompt: str, **fields: object) -> str:
    answer = stack.session().post(
        f"{stack.url}/v1/inference",
        json={"prompt": prompt, "cache": {"mode": "off"}, **fields},
        timeout=10,
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def state(stack: RealStack, job_id: str) -> JobState:
    return stack.ledger.read(job_id, "acme").job.state


def ends(stack: RealStack, job_id: str, expected: JobState, seconds: float = 30) -> None:
    eventually(lambda: state(stack, job_id).terminal, seconds=seconds, what=f"the end of {job_id}")
    job = stack.ledger.read(job_id, "acme").job
    assert job.state is expected, (job.error, job.attempts, stack.log("worker1")[-3000:])


def test_a_prompt_goes_all_the_way(stack: RealStack) -> None:
    behave(stack, mode="ok")
    answer = stack.session().post(
        f"{stack.url}/v1/inference?wait=20",
        json={"prompt": "The secret prompt text", "metadata": {"k": "v"}},
        headers={"X-Request-ID": "way-1"},
        timeout=30,
    )
    job = answer.json()
    assert answer.status_code == 200
    assert job["state"] == "succeeded"
    result = job["result"]
    assert result["provider"] == "local"
    assert result["cache_hit"] is False
    assert result["metadata"] == {"k": "v"}
    assert result["request_id"] == "way-1"
    assert job["attempts"][-1]["status"] == "ok"
    timing = job["timing"]
    assert timing["total_ms"] >= timing["provider_ms"] + timing["cache_ms"]

    repeated = stack.session().post(
        f"{stack.url}/v1/inference?wait=20",
        json={"prompt": "The secret prompt text"},
        timeout=30,
    ).json()  # fmt: skip
    assert repeated["result"]["cache"]["layer"] == "exact"
    assert repeated["result"]["response"] == result["response"]

    log = stack.log("worker1")
    line = next(line for line in log.splitlines() if '"job_ended"' in line and job["id"] in line)
    assert '"request_id":"way-1"' in line
    assert '"tenant":"acme"' in line
    for name in stack.processes:
        if name not in ("provider", "redis"):
            assert "secret prompt text" not in stack.log(name)


def test_a_killed_workers_job_ends_on_another(stack: RealStack) -> None:
    behave(stack, mode="ok", latency=1.0)
    stack.start_worker("second")
    ids = [submit(stack, f"kill {n}") for n in range(16)]
    eventually(
        lambda: any(state(stack, i) is JobState.RUNNING for i in ids), seconds=20, what="running"
    )
    stack.kill("worker1")
    for job_id in ids:
        ends(stack, job_id, JobState.SUCCEEDED)
    stack.start_worker("worker1")
    stack.kill("second")


def test_a_frozen_workers_result_is_refused(stack: RealStack) -> None:
    behave(stack, mode="ok", latency=0.5)
    job_id = submit(stack, "freeze")
    eventually(lambda: state(stack, job_id) is JobState.RUNNING, seconds=10, what="running")
    stack.kill("worker1", signal.SIGSTOP)
    stack.start_worker("rescuer")
    ends(stack, job_id, JobState.SUCCEEDED)
    rescued = stack.ledger.read(job_id, "acme").job
    stack.kill("worker1", signal.SIGCONT)
    eventually(
        lambda: "result refused" in stack.log("worker1") or "lease lost" in stack.log("worker1"),
        seconds=20,
        what="the stale result refused",
    )
    assert stack.ledger.read(job_id, "acme").job == rescued
    assert rescued.attempt == 2
    stack.kill("rescuer")


def test_messages_lost_between_brpop_and_bookkeeping(stack: RealStack) -> None:
    """A frozen consumer has taken the message; its death loses it. Ten times over."""
    behave(stack, mode="ok", latency=0.0)
    for number in range(10):
        stack.kill("worker1", signal.SIGSTOP)
        job_id = submit(stack, f"gap {number}")
        stack.kill("worker1")
        stack.start_worker("worker1")
        ends(stack, job_id, JobState.SUCCEEDED)


def test_a_poison_job_is_given_up(stack: RealStack) -> None:
    """A job whose worker dies each time fails after its attempts, and says so."""
    behave(stack, mode="hang")
    job_id = submit(stack, "poison")
    for attempt in range(3):

        def runs(number: int = attempt + 1) -> bool:
            job = stack.ledger.read(job_id, "acme").job
            return job.state is JobState.RUNNING and job.attempt == number

        eventually(runs, seconds=30, what=f"run {attempt}")
        stack.kill("worker1")
        if attempt < 2:
            stack.start_worker("worker1")
    ends(stack, job_id, JobState.FAILED)
    assert b"attempts_exhausted" in (stack.ledger.read(job_id, "acme").job.error or b"")
    behave(stack, mode="ok")
    stack.start_worker("worker1")


def test_a_cancelled_run_frees_its_worker(stack: RealStack) -> None:
    behave(stack, mode="hang")
    before = stack.provider_calls()["count"]
    ids = [submit(stack, f"cancel {n}") for n in range(8)]
    eventually(lambda: stack.provider_calls()["count"] == before + 8, seconds=30, what="all calls")
    for job_id in ids:
        eventually(lambda i=job_id: state(stack, i) is JobState.RUNNING, seconds=20, what="run")
        answer = stack.session().post(f"{stack.url}/v1/jobs/{job_id}/cancel", timeout=10)
        assert answer.json()["state"] == "cancelled"
    behave(stack, mode="ok")
    # All eight threads were held by the provider that never answers; now they are free again.
    ends(stack, submit(stack, "after"), JobState.SUCCEEDED, seconds=20)


def test_a_provider_that_is_down_for_a_while(stack: RealStack) -> None:
    behave(stack, mode="status", status=503)
    job_id = submit(stack, "down", deadline_seconds=60)
    eventually(
        lambda: stack.ledger.read(job_id, "acme").job.attempts is not None,
        seconds=30,
        what="a failed run",
    )
    behave(stack, mode="ok")
    ends(stack, job_id, JobState.SUCCEEDED, seconds=60)


def test_an_honest_failure_by_the_deadline(stack: RealStack) -> None:
    behave(stack, mode="hang")
    job_id = submit(stack, "late", deadline_seconds=3)
    eventually(lambda: state(stack, job_id).terminal, seconds=20, what="the end")
    assert state(stack, job_id) in (JobState.FAILED, JobState.EXPIRED)
    behave(stack, mode="ok")


def test_the_api_process_is_small_and_has_no_torch(stack: RealStack, tmp_path: Path) -> None:
    port = free_port()
    # Without the bookkeeping of coverage, which takes several megabytes of its own.
    stack.spawn("small", api_command(), API_PORT=str(port), COVERAGE_PROCESS_CONFIG="")

    def answers() -> bool:
        with contextlib.suppress(requests.RequestException):
            url = f"http://127.0.0.1:{port}/v1/inference?wait=20"
            asked = stack.session().post(url, json={"prompt": "how large are you?"}, timeout=30)
            return asked.status_code == 200
        return False

    eventually(answers, seconds=60, what="an answer of the API")
    parent = stack.processes["small"].pid
    pids = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _parent(entry) == parent
    ]
    assert pids
    for pid in [parent, *pids]:
        status = Path(f"/proc/{pid}/status").read_text()
        resident_kb = int(status.split("VmRSS:")[1].split()[0])
        assert resident_kb < 120_000
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert "libtorch" not in maps
        assert "onnxruntime" not in maps


def _parent(entry: Path) -> int:
    try:
        return int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return -1


def test_identical_requests_in_flight_are_one_call(stack: RealStack) -> None:
    for mode in ("ok", "length"):
        # A truncated answer is never cached, and still serves all who wanted it by then.
        behave(stack, mode=mode, text="cut off", latency=1.0)
        before = stack.provider_calls()["count"]
        ids = [
            stack.session().post(
                f"{stack.url}/v1/inference", json={"prompt": f"the same {mode}"}, timeout=10
            ).json()["id"]
            for _ in range(20)
        ]  # fmt: skip
        for job_id in ids:
            ends(stack, job_id, JobState.SUCCEEDED)
        assert stack.provider_calls()["count"] - before == 1
    behave(stack, mode="ok", text=None, latency=0.0)


def test_followers_survive_the_death_of_who_they_follow(stack: RealStack) -> None:
    behave(stack, mode="hang")
    session = stack.session()
    ids = [
        session.post(
            f"{stack.url}/v1/inference", json={"prompt": "orphaned"}, timeout=10
        ).json()["id"]
        for _ in range(5)
    ]  # fmt: skip
    eventually(
        lambda: any(state(stack, i) is JobState.RUNNING for i in ids), seconds=10, what="a lead"
    )
    stack.kill("worker1")
    behave(stack, mode="ok")
    stack.start_worker("worker1")
    for job_id in ids:
        ends(stack, job_id, JobState.SUCCEEDED)
