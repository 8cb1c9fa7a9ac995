"""A Redis that is full, cut short, killed, or half gone."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from app.api import create_app
from app.cli.tokens import mint
from tasks.inference import Priority
from tasks.jobs import JobState
from tasks.ledger import Ledger, Limits
from tasks.redis_client import connect
from tests.api.conftest import make_settings
from tests.conftest import running_redis
from tests.faults.chaos import Chaos
from tests.ledger.test_ledger import new_job
from tests.stack import RealStack, eventually

pytestmark = pytest.mark.slow


def test_a_full_redis_refuses_new_work_and_finishes_old(tmp_path: Path) -> None:
    with running_redis(tmp_path) as url:
        client = connect(url, timeout=5)
        ledger = Ledger(client, "full:")
        old = [ledger.submit(new_job(), limits=Limits())[0].job.id for _ in range(20)]
        client.config_set("maxmemory", 1)  # fuller than full
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            ledger.submit(new_job(), limits=Limits())
        for _ in old:
            job = ledger.claim(Priority.NORMAL, "w", 10)
            assert job is not None
            assert ledger.renew([(job.id, job.fence)], 10) == [True]
            assert ledger.finish(job, JobState.SUCCEEDED, result=b'"answer"')
        assert all(ledger.read(i, "acme").job.state is JobState.SUCCEEDED for i in old)
        ledger.sweep()
        client.config_set("maxmemory", 0)
        assert ledger.submit(new_job(), limits=Limits())[1]


def test_a_full_redis_is_said_to_clients(tmp_path: Path) -> None:
    with running_redis(tmp_path) as url:
        settings = make_settings(url, "full:")
        client = create_app(settings).test_client()
        token = mint(settings, user="ann", tenant="acme", role="user", expires=timedelta(hours=1))
        headers = {"Authorization": f"Bearer {token}"}
        assert client.get("/v1/health/ready").status_code == 200
        body = {"prompt": "x"}
        old = client.post("/v1/inference", json=body, headers=headers).json["id"]
        connect(url).config_set("maxmemory", 1)
        refused = client.post("/v1/inference", json=body, headers=headers)
        assert refused.status_code == 503
        assert refused.json["type"].endswith(":storage-full")
        ready = client.get("/v1/health/ready")
        assert ready.status_code == 503
        assert "full" in ready.json["checks"]["redis"]
        assert connect(url).hget(f"full:job:{old}", "state") == b"queued"


def test_a_cut_tail_of_the_log_starts_again(tmp_path: Path) -> None:
    """Power loss leaves half a write at the end of the append-only file."""
    with running_redis(tmp_path) as url:
        ledger = Ledger(connect(url, timeout=5), "cut:")
        ids = [ledger.submit(new_job(), limits=Limits())[0].job.id for _ in range(50)]
    (log,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    content = log.read_bytes()
    log.write_bytes(content[:-7])
    with running_redis(tmp_path) as url:
        ledger = Ledger(connect(url, timeout=5), "cut:")
        claimed = []
        while (job := ledger.claim(Priority.NORMAL, "w", 10)) is not None:
            claimed.append(job.id)
        # The last step is gone as a whole: a Lua step is written as one transaction.
        assert claimed == ids[:-1]


@pytest.fixture
def stack(tmp_path: Path):
    stack = RealStack(tmp_path, {"MAX_WORKERS": "8"}, workers=2)
    stack.env["CACHE_REDIS_URL"] = stack.cache_url
    stack.start_cache_redis()
    try:
        stack.start("--latency", "0.05")
        yield stack
    finally:
        stack.stop()


def submit_all(stack: RealStack, count: int, **body: object) -> list[str]:
    session = stack.session()
    ids = []
    for number in range(count):
        answer = session.post(
            f"{stack.url}/v1/inference", json={"prompt": f"p{number}", **body}, timeout=10
        )
        assert answer.status_code in (200, 202), answer.text  # 200: an exact repeat
        ids.append(str(answer.json()["id"]))
    return ids


def all_succeed(
    stack: RealStack,
    ids: list[str],
    seconds: float,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    def done() -> bool:
        meanwhile()
        try:
            return all(stack.ledger.read(i, "acme").job.state.terminal for i in ids)
        except redis.RedisError:
            return False

    eventually(done, seconds=seconds, what="the end of all jobs", every=0.25)
    states = {stack.ledger.read(i, "acme").job.state for i in ids}
    assert states == {JobState.SUCCEEDED}


def test_redis_killed_twice_under_load(stack: RealStack) -> None:
    ids = submit_all(stack, 150, cache={"mode": "off"})
    run = Chaos(stack, 0, reconciler=True)
    for _ in range(2):
        stack.kill("redis")
        stack.start_redis()
        ids += submit_all(stack, 100, cache={"mode": "off"})
        run.supervise()
    all_succeed(stack, ids, seconds=60, meanwhile=run.supervise)


def test_jobs_run_without_the_caches_redis(stack: RealStack) -> None:
    stack.kill("cache")
    all_succeed(stack, submit_all(stack, 20), seconds=40)
    assert stack.session().get(f"{stack.url}/v1/health", timeout=10).json()["status"] == "degraded"
    assert stack.session().get(f"{stack.url}/v1/health/ready", timeout=10).status_code == 200
    stack.start_cache_redis()
    before = stack.provider_calls()["count"]
    all_succeed(stack, submit_all(stack, 1, metadata={"n": "1"}), seconds=20)
    all_succeed(stack, submit_all(stack, 1, metadata={"n": "2"}), seconds=20)
    assert stack.provider_calls()["count"] - before <= 1


def test_a_frozen_redis_answers_503_and_heals(stack: RealStack) -> None:
    session = stack.session()
    stack.kill("redis", signal.SIGSTOP)
    answer = session.post(f"{stack.url}/v1/inference", json={"prompt": "x"}, timeout=10)
    assert answer.status_code == 503
    assert answer.json()["type"].endswith(":storage-unavailable")
    assert session.get(f"{stack.url}/v1/health/ready", timeout=10).status_code == 503
    assert session.get(f"{stack.url}/v1/health/live", timeout=10).status_code == 200
    stack.kill("redis", signal.SIGCONT)
    all_succeed(stack, submit_all(stack, 10), seconds=40)
