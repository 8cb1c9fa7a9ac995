"""The scaler as it is deployed: its settings, the ledger's counters, and the Celery task."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from config.settings import BadSettingsError, Settings, load_settings
from tasks.arrivals import read_arrivals
from tasks.celery_app import celery_app
from tasks.inference import Priority
from tasks.jobs import JobState
from tasks.ledger import Ledger, Limits, NewJob
from tasks.presence import presence_channels, present_workers
from tasks.scaler_state import read_scaler
from tasks.signatures import BEAT_SCHEDULE, beat_schedule
from tests.scaler.api_server import ApiServer
from tests.stack import RealStack, eventually
from workers.scaler.knobs import Mode
from workers.scaler.kubernetes import Cluster
from workers.scaler.ledger_signals import LedgerSignalsReader
from workers.scaler.live import configured

PREFIX = "t:"


def submit(ledger: Ledger, lane: Priority = Priority.NORMAL, **changes: Any) -> str:
    fields: dict[str, Any] = {
        "tenant": "acme",
        "user": "ann",
        "lane": lane,
        "request": b"{}",
        "fingerprint": "f",
        "request_id": "r",
        "deadline_seconds": 600,
        "retention_seconds": 600,
        "max_attempts": 2,
        "estimated_tokens": 70,
        **changes,
    }
    return ledger.submit(NewJob(**fields), limits=Limits())[0].job.id


@pytest.fixture
def ledger(scaler_redis: Any) -> Ledger:
    return Ledger(scaler_redis, PREFIX)


@pytest.fixture
def reader(scaler_redis: Any) -> LedgerSignalsReader:
    return LedgerSignalsReader(scaler_redis, PREFIX)


def began(client: redis.Redis, job_id: str, milliseconds: int, field: str = "started_at") -> None:
    """Move the job's clock back."""
    name = f"{PREFIX}job:{job_id}"
    then = int(client.hget(name, field) or 0) - milliseconds  # type: ignore[arg-type]
    client.hset(name, field, then)


def test_a_fresh_ledger_says_nothing(reader: LedgerSignalsReader) -> None:
    found = reader("high", 0.0)
    assert (found.depth, found.running, found.oldest_age) == (0, 0, 0.0)
    assert (found.started_total, found.late_total, found.finished_total) == (0, 0, 0)
    assert found.running_by_worker == {}


def test_the_ledger_counts_what_the_scaler_asks_for(
    ledger: Ledger, reader: LedgerSignalsReader, scaler_redis: Any
) -> None:
    first = submit(ledger)
    began(scaler_redis, first, 61_000, "ready_at")
    for _ in range(3):
        submit(ledger)
    one = ledger.claim(Priority.NORMAL, "pod-a:1", 10)
    two = ledger.claim(Priority.NORMAL, "pod-a:2", 10)
    three = ledger.claim(Priority.NORMAL, "pod-b:1", 10)
    assert one is not None
    assert two is not None
    assert three is not None
    found = reader("normal", 0.0)
    assert (found.depth, found.running) == (1, 3)
    assert (found.started_total, found.late_total) == (3, 1)
    assert found.running_by_worker == {"pod-a:1": 1, "pod-a:2": 1, "pod-b:1": 1}
    assert found.running_by_pod == {"pod-a": 2, "pod-b": 1}
    for job in (one, two):
        began(scaler_redis, job.id, 5_000)
        assert ledger.finish(job, JobState.SUCCEEDED, result=b'{"response": "x"}')
    ledger.cancel(three.id, "acme")
    found = reader("normal", 0.0)
    assert found.running_by_worker == {}
    assert (found.finished_total, found.finished_tokens_total) == (3, 210)
    assert found.busy_seconds_total == pytest.approx(10.0, abs=1.0)
    assert reader("low", 0.0).finished_total == 0


def test_a_run_that_is_put_off_took_its_slot_but_is_one_job(
    ledger: Ledger, reader: LedgerSignalsReader, scaler_redis: Any
) -> None:
    submit(ledger)
    for _ in range(2):
        job = ledger.claim(Priority.NORMAL, "w:1", 10)
        assert job is not None
        began(scaler_redis, job.id, 3_000)
        assert ledger.defer(job, 0.0, counts=False)
        ledger.wake([job.id])
        assert reader("normal", 0.0).running_by_worker == {}
    job = ledger.claim(Priority.NORMAL, "w:1", 10)
    assert job is not None
    assert ledger.finish(job, JobState.FAILED, error=b"{}")
    found = reader("normal", 0.0)
    assert (found.started_total, found.finished_total) == (1, 1)
    assert found.busy_seconds_total == pytest.approx(6.0, abs=1.0)


def test_a_dead_worker_holds_nothing(
    ledger: Ledger, reader: LedgerSignalsReader, scaler_redis: Any
) -> None:
    job_id = submit(ledger)
    assert ledger.claim(Priority.NORMAL, "dead:1", 10)
    scaler_redis.zadd(f"{PREFIX}due", {job_id: 1}, xx=True)
    ledger.sweep()
    assert reader("normal", 0.0).running_by_worker == {}


def test_a_job_that_no_worker_took_in_time_was_late(
    ledger: Ledger, reader: LedgerSignalsReader, scaler_redis: Any
) -> None:
    expired, cancelled = submit(ledger), submit(ledger)
    scaler_redis.hset(f"{PREFIX}job:{expired}", "deadline_at", 1)
    assert (job := ledger.claim(Priority.NORMAL, "w:1", 10))
    assert job.id == cancelled
    found = reader("normal", 0.0)
    assert (found.started_total, found.late_total, found.finished_total) == (2, 1, 0)


def test_a_low_job_that_moves_up_was_late_for_low_alone(
    ledger: Ledger, reader: LedgerSignalsReader
) -> None:
    submit(ledger, Priority.LOW)
    assert ledger.sweep(age_low_seconds=0.0).aged == 1
    assert ledger.claim(Priority.NORMAL, "w:1", 10)
    low, normal = reader("low", 0.0), reader("normal", 0.0)
    assert (low.started_total, low.late_total) == (1, 1)
    assert (normal.started_total, normal.late_total, normal.running) == (0, 0, 1)


def test_what_the_api_answers_itself_is_no_arrival(ledger: Ledger, scaler_redis: Any) -> None:
    submit(ledger, result=b'{"response": "known"}')
    submit(ledger)
    found = read_arrivals(scaler_redis, "normal", 120.0, prefix=PREFIX)
    assert (sum(found.requests), sum(found.tokens)) == (1, 70)


def test_workers_are_present_while_they_listen(scaler_redis: Any) -> None:
    queues = ["inference.high", "inference.low", "control"]
    channels = presence_channels(PREFIX, "host:7", queues)
    assert channels == ["t:serving:high:host:7", "t:serving:low:host:7"]
    listener = scaler_redis.pubsub()
    listener.subscribe(*channels)
    listener.get_message(timeout=5)
    assert present_workers(scaler_redis, PREFIX, "low") == ["host:7"]
    assert present_workers(scaler_redis, PREFIX, "normal") == []
    assert LedgerSignalsReader(scaler_redis, PREFIX)("high", 0.0).running_by_worker == {"host:7": 0}
    listener.close()
    eventually(
        lambda: present_workers(scaler_redis, PREFIX, "low") == [], seconds=5, what="it is gone"
    )


def settings_of(**changes: Any) -> Settings:
    return Settings(_env_file=None, **changes)  # type: ignore[call-arg]


def test_outside_a_cluster_it_recommends_by_default() -> None:
    scaler = configured(settings_of())
    assert scaler.mode is Mode.RECOMMEND
    assert [target.queue for target in scaler.queues] == ["high", "normal", "low"]
    assert [target.deployment for target in scaler.queues] == [
        "worker-high",
        "worker-normal",
        "worker-low",
    ]
    assert {target.knobs.tick_seconds for target in scaler.queues} == {60.0}
    assert [target.knobs.target_wait_seconds for target in scaler.queues] == [5.0, 60.0, 300.0]
    assert not any(target.knobs.scale_to_zero for target in scaler.queues)


def test_every_setting_reaches_the_decision() -> None:
    scaler = configured(
        settings_of(
            scaler_mode="act",
            scaler_interval=30,
            scaler_unit="tokens",
            scaler_wait_seconds="high=1,normal=2,low=3",
            scaler_late_share=0.05,
            scaler_cold_start_seconds=480,
            scaler_min_replicas="high=2,normal=1,low=0",
            scaler_max_replicas="high=9,normal=8,low=7",
            scaler_max_total_replicas=12,
            scaler_max_cost_per_hour=6.5,
            scaler_cost_per_replica_hour=0.4,
            scaler_deployments="high=a,normal=b,low=c",
            scaler_namespace="elsewhere",
            max_workers=16,
        )
    )
    high, _, low = scaler.queues
    assert (scaler.mode, scaler.unit, scaler.namespace) == (Mode.ACT, "tokens", "elsewhere")
    assert (scaler.limits.max_replicas, scaler.limits.max_cost_per_hour) == (12, 6.5)
    assert (high.deployment, high.knobs.min_replicas, high.knobs.max_replicas) == ("a", 2, 9)
    assert (low.deployment, low.knobs.min_replicas, low.knobs.scale_to_zero) == ("c", 0, True)
    assert (high.knobs.slots_per_replica, high.knobs.cold_start_seconds) == (16, 480.0)
    assert (high.knobs.violation_target, high.knobs.cost_per_replica_hour) == (0.05, 0.4)
    assert (high.knobs.tick_seconds, low.knobs.target_wait_seconds) == (30.0, 3.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SCALER_WAIT_SECONDS", "high=5"),
        ("SCALER_WAIT_SECONDS", "high=5,normal=x,low=1"),
        ("SCALER_WAIT_SECONDS", "high=0,normal=1,low=1"),
        ("SCALER_MIN_REPLICAS", "high=0,normal=1,low=1"),
        ("SCALER_MIN_REPLICAS", "high=1,normal=21,low=1"),
        ("SCALER_MAX_REPLICAS", "high=1,normal=-2,low=1"),
        ("SCALER_DEPLOYMENTS", "high=a,normal=b,low=No_Name"),
        ("SCALER_DEPLOYMENTS", "high=a,high=b,low=c"),
        ("SCALER_MODE", "sometimes"),
    ],
)
def test_bad_settings_are_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettingsError, match=name):
        load_settings()


def test_beat_sends_the_tick_to_a_queue_of_its_own() -> None:
    entry = beat_schedule(settings_of(scaler_interval=45))["scaler"]
    assert (entry["schedule"], entry["options"]) == (45.0, {"expires": 45.0})
    assert celery_app.amqp.router.route({}, entry["task"])["queue"].name == "scaler"
    assert beat_schedule(settings_of(scaler_interval=0)) == BEAT_SCHEDULE


def kubeconfig(folder: Path, url: str) -> Path:
    """As a user would have one."""
    path = folder / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
                "clusters": [{"name": "here", "cluster": {"server": url}}],
                "users": [{"name": "me", "user": {}}],
            }
        )
    )
    return path


@pytest.fixture
def deployed(
    request: pytest.FixtureRequest, api: tuple[ApiServer, Cluster], tmp_path: Path
) -> Iterator[RealStack]:
    """Redis, beat and the scaler's worker, in the mode of the test, beside an API server."""
    server, cluster = api
    server.now = time.time()
    for lane in Priority:
        server.add_deployment(f"worker-{lane}", 1)
    stack = RealStack(
        tmp_path,
        {
            "SCALER_MODE": request.param,
            "SCALER_INTERVAL": "1",
            "SCALER_NAMESPACE": cluster.namespace,
            "SCALER_KUBECONFIG": str(
                kubeconfig(tmp_path, cluster.apps.api_client.configuration.host)
            ),
            "MAX_WORKERS": "4",
        },
    )
    try:
        stack.start_redis()
        stack.start_scaler()
        stack.start_beat()
        yield stack
    finally:
        stack.stop()


def decisions(stack: RealStack) -> dict[str, Any]:
    found: dict[str, Any] = read_scaler(stack.redis, prefix=stack.settings.key_prefix)["queues"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("deployed", ["act"], indirect=True)
def test_load_on_the_ledger_scales_the_deployment(
    deployed: RealStack, api: tuple[ApiServer, Cluster]
) -> None:
    server, _ = api
    for _ in range(18):
        submit(deployed.ledger)
    # 18 waiting jobs at 1.5 for each of 4 slots
    eventually(
        lambda: server.replicas("worker-normal") == 3, seconds=60, what="the scale is patched"
    )
    assert ("deployments/scale", "worker-normal") in server.writes
    eventually(
        lambda: decisions(deployed).get("normal", {}).get("before") == 3,
        seconds=30,
        what="the next tick sees it",
    )
    assert server.replicas("worker-high") == server.replicas("worker-low") == 1
    events = [item for (plural, _), item in server.store.items() if plural == "events"]
    assert events[0]["message"].startswith("1 -> 3 replicas for queue normal: backlog")
    lines = [json.loads(line) for line in deployed.log("scaler").splitlines() if "{" in line]
    decided = [line for line in lines if line.get("action") == "scaler.decided"]
    assert {line["queue"] for line in decided} == {"high", "normal", "low"}
    assert any(line["applied"] and line["after"] == 3 for line in decided)


@pytest.mark.slow
@pytest.mark.parametrize("deployed", ["act"], indirect=True)
def test_an_outage_of_redis_scales_nothing_in(
    deployed: RealStack, api: tuple[ApiServer, Cluster]
) -> None:
    server, _ = api
    for _ in range(18):
        submit(deployed.ledger)
    eventually(lambda: server.replicas("worker-normal") == 3, seconds=60, what="it has scaled")
    deployed.kill("redis")
    server.writes.clear()
    for name in ("redis", "beat", "scaler"):
        process = deployed.processes[name]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(3)
    deployed.start_redis()
    back = time.time()

    def decides_again() -> bool:
        # As their supervisor would: they may give up after Redis is back, too.
        for name, start in (("beat", deployed.start_beat), ("scaler", deployed.start_scaler)):
            if deployed.processes[name].poll() is not None:
                start()
        return decisions(deployed).get("normal", {}).get("at", 0.0) > back

    eventually(decides_again, seconds=90, what="it decides again")
    assert server.replicas("worker-normal") == 3
    assert ("deployments/scale", "worker-normal") not in server.writes


@pytest.mark.slow
@pytest.mark.parametrize("deployed", ["recommend"], indirect=True)
def test_recommending_writes_nothing(deployed: RealStack, api: tuple[ApiServer, Cluster]) -> None:
    server, _ = api
    for _ in range(18):
        submit(deployed.ledger)
    eventually(
        lambda: decisions(deployed).get("normal", {}).get("after") == 3,
        seconds=60,
        what="it is recommended",
    )
    record = decisions(deployed)["normal"]
    assert (record["mode"], record["result"]) == ("recommend", "recommended only")
    assert server.writes == []
    assert server.replicas("worker-normal") == 1
    assert not any(plural in ("events", "leases") for plural, _ in server.store)
