from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from redis.exceptions import ConnectionError as RedisConnectionError

from tasks.arrivals import arrivals_key, record_arrival
from tasks.scaler_metrics import ScalerCollector, get_scaling_metrics
from tasks.scaler_state import (
    claim_tick,
    load_memories,
    pause_scaler,
    read_pause,
    read_scaler,
    resume_scaler,
    save_tick,
    token_is_newest,
)
from tests.scaler.api_server import COST, ApiServer
from workers.scaler import run_tick
from workers.scaler import tick as tick_module
from workers.scaler.decide import Decision
from workers.scaler.knobs import FleetLimits, Mode, QueueKnobs
from workers.scaler.kubernetes import Cluster
from workers.scaler.ladder import Level
from workers.scaler.memory import (
    ServiceTimes,
    dump_memory,
    parse_memory,
    update_service,
)
from workers.scaler.settings import QueueTarget, ScalerSettings
from workers.scaler.signals import LedgerSignals

Api = tuple[ApiServer, Cluster]
PREFIX = "t:"
KNOBS = QueueKnobs(slots_per_replica=4, cost_per_replica_hour=0.5)
SETTINGS = ScalerSettings(
    queues=(QueueTarget("normal", "worker", KNOBS),),
    mode=Mode.ACT,
    namespace="inferenceflow",
    holder="a",
    prefix=PREFIX,
    seconds_per_job=8.0,
)


class Ledger:
    """Says of every queue what it was told to say."""

    def __init__(self, **changes: Any) -> None:
        self.signals = LedgerSignals(
            depth=0,
            running=8,
            oldest_age=0.0,
            started_total=100,
            late_total=0,
            busy_seconds_total=800.0,
            finished_total=100,
            running_by_worker={"worker-1": 4, "worker-2": 4},
        )
        self.change(**changes)
        self.error: Exception | None = None

    def change(self, **changes: Any) -> None:
        self.signals = replace(self.signals, **changes)

    def __call__(self, queue: str, now: float) -> LedgerSignals:
        if self.error is not None:
            raise self.error
        return self.signals


def fill(client: Any, now: float, hours: float, rate: Callable[[float], float]) -> None:
    """Count `rate(moment)` requests per minute in each of the last `hours`."""
    with client.pipeline(transaction=False) as pipe:
        for back in range(int(hours * 60)):
            moment = now - 60.0 * (back + 1)
            pipe.hincrby(
                arrivals_key("normal", moment, prefix=PREFIX),
                f"{int(moment) // 60 % 60:02d}:r",
                int(rate(moment)),
            )
        pipe.execute()


def tick(client: Any, api: Api, ledger: Ledger, settings: ScalerSettings = SETTINGS) -> Decision:
    server, cluster = api
    [decision] = run_tick(settings, client, server.now, ledger=ledger, cluster=cluster)
    return decision


def last(client: Any) -> dict[str, Any]:
    record: dict[str, Any] = read_scaler(client, prefix=PREFIX)["queues"]["normal"]
    return record


def test_a_tick_scales_logs_and_remembers(
    scaler_redis: Any, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    server, _ = api
    server.add_deployment("worker", 2)
    fill(scaler_redis, server.now, 2, lambda _: 120)
    with caplog.at_level(logging.INFO, logger="workers.scaler"):
        decision = tick(scaler_redis, api, Ledger())
    # 2/s * 8 s = 16 slots: (16 + 4) / 4
    assert (decision.before, decision.target, decision.trust.level) == (2, 5, Level.NOWCAST)
    assert server.replicas("worker") == 5
    [line] = [record for record in caplog.records if record.msg == "scaler decided"]
    assert line.__dict__["action"] == "scaler.decided"
    assert line.__dict__["binding"] == "staffing"
    record = last(scaler_redis)
    assert record["applied"] is True
    assert record["terms"]["staffing"] == 5
    assert (record["before"], record["after"], record["direction"]) == (2, 5, "up")
    assert record["forecast"]["actual"] == pytest.approx(2.0)
    [event] = [item for (plural, _), item in server.store.items() if plural == "events"]
    assert event["message"].startswith("2 -> 5 replicas for queue normal: staffing")
    server.now += 30
    assert tick(scaler_redis, api, Ledger()).before == 5
    state = read_scaler(scaler_redis, log=10, prefix=PREFIX)
    assert [one["before"] for one in state["log"]["normal"]] == [5, 2]
    assert state["totals"]["replica_seconds:normal"] == 5 * 30.0
    assert state["totals"]["actions:normal:up:staffing"] == 1


def test_numbers_for_prometheus(scaler_redis: Any, api: Api) -> None:
    server, _ = api
    server.add_deployment("worker", 2)
    fill(scaler_redis, server.now, 2, lambda _: 120)
    tick(scaler_redis, api, Ledger())
    server.now += 60
    tick(scaler_redis, api, Ledger())
    numbers = get_scaling_metrics(scaler_redis, prefix=PREFIX)["normal"]
    assert numbers["desired_replicas"] == 5.0
    assert numbers["level"] == 2
    assert numbers["actions"] == {("up", "staffing"): 1}
    assert numbers["replica_hours"] == pytest.approx(5 * 60 / 3600)
    assert numbers["cost"] == pytest.approx(0.5 * 5 * 60 / 3600)
    assert "seasonal_loss" not in numbers
    registry = CollectorRegistry()
    registry.register(ScalerCollector(scaler_redis, prefix=PREFIX))
    text = generate_latest(registry).decode()
    assert 'inferenceflow_scaler_desired_replicas{queue="normal"} 5.0' in text
    assert (
        "inferenceflow_scaler_actions_total"
        '{direction="up",queue="normal",reason="staffing"} 1.0' in text
    )
    assert 'inferenceflow_scaler_ready_replicas{queue="normal"} 5.0' in text


def test_totals_alone_are_numbers_too(scaler_redis: Any) -> None:
    scaler_redis.hset("scaler:totals", "cost:low", "1.5")
    assert get_scaling_metrics(scaler_redis) == {"low": {"actions": {}, "cost": 1.5}}
    registry = CollectorRegistry()
    registry.register(ScalerCollector(scaler_redis))
    assert 'cost_dollars_total{queue="low"} 1.5' in generate_latest(registry).decode()


def test_recommending_and_pausing_change_nothing(scaler_redis: Any, api: Api) -> None:
    server, _ = api
    server.add_deployment("worker", 2)
    fill(scaler_redis, server.now, 2, lambda _: 120)
    tick(scaler_redis, api, Ledger(), replace(SETTINGS, mode=Mode.RECOMMEND))
    assert last(scaler_redis)["result"] == "recommended only"
    pause_scaler(scaler_redis, by="ops", reason="deploy", at=server.now, prefix=PREFIX)
    assert read_pause(scaler_redis, prefix=PREFIX) == {
        "by": "ops",
        "reason": "deploy",
        "at": server.now,
    }
    assert tick(scaler_redis, api, Ledger()).target == 5
    assert last(scaler_redis)["paused"] is True
    assert server.replicas("worker") == 2
    resume_scaler(scaler_redis, prefix=PREFIX)
    tick(scaler_redis, api, Ledger())
    assert server.replicas("worker") == 5


def test_without_a_cluster_the_ledgers_workers_are_the_replicas(scaler_redis: Any) -> None:
    now = 1_700_000_040.0
    fill(scaler_redis, now, 2, lambda _: 120)
    [decision] = run_tick(SETTINGS, scaler_redis, now, ledger=Ledger())
    assert (decision.before, decision.target) == (2, 5)
    assert last(scaler_redis)["applied"] is False


def test_one_tick_at_a_time(scaler_redis: Any) -> None:
    now = 1_700_000_040.0
    assert run_tick(SETTINGS, scaler_redis, now, ledger=Ledger()) != []
    other = replace(SETTINGS, holder="b")
    assert run_tick(other, scaler_redis, now, ledger=Ledger()) == []


def test_tokens_grow_and_fence(scaler_redis: Any) -> None:
    first = claim_tick(scaler_redis, "a", 60)
    assert first is not None
    assert claim_tick(scaler_redis, "a", 60) == first
    assert claim_tick(scaler_redis, "b", 60) is None
    scaler_redis.delete("scaler:lock")
    second = claim_tick(scaler_redis, "b", 60)
    assert second is not None
    assert second > first
    assert token_is_newest(scaler_redis, second)
    assert not token_is_newest(scaler_redis, first)
    assert save_tick(scaler_redis, second, memories={"q": "{}"}, decisions={"q": "{}"})
    assert not save_tick(scaler_redis, first, memories={"q": "old"}, decisions={})
    assert load_memories(scaler_redis) == {"q": "{}"}


def test_every_key_expires_or_is_permanent_by_intent(scaler_redis: Any, api: Api) -> None:
    server, _ = api
    server.add_deployment("worker", 2)
    record_arrival(scaler_redis, "normal", 10, server.now, prefix=PREFIX)
    tick(scaler_redis, api, Ledger())
    server.now += 30
    tick(scaler_redis, api, Ledger())
    lasting = {key for key in scaler_redis.scan_iter() if scaler_redis.ttl(key) < 0}
    assert lasting == {b"t:scaler:token", b"t:scaler:totals"}


def test_a_scaler_that_lost_its_lock_stores_nothing(
    scaler_redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def overtaken(queue: str, now: float) -> LedgerSignals:
        # Between this tick's beginning and its end another one took over, and stored.
        scaler_redis.delete("t:scaler:lock")
        token = claim_tick(scaler_redis, "b", 60, prefix=PREFIX)
        assert token is not None
        save_tick(scaler_redis, token, memories={"normal": "new"}, decisions={}, prefix=PREFIX)
        return Ledger().signals

    run_tick(SETTINGS, scaler_redis, 1_700_000_040.0, ledger=overtaken)
    assert load_memories(scaler_redis, prefix=PREFIX) == {"normal": "new"}
    assert read_scaler(scaler_redis, prefix=PREFIX)["queues"] == {}
    assert "scaler lost its lock" in caplog.messages


def test_another_holder_of_the_lease_keeps_this_one_from_writing(
    scaler_redis: Any, api: Api
) -> None:
    server, _ = api
    server.add_deployment("worker", 2)
    fill(scaler_redis, server.now, 2, lambda _: 120)
    server.put(
        "leases",
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": SETTINGS.lease_name},
            "spec": {
                "holderIdentity": "b",
                "leaseDurationSeconds": 90,
                "leaseTransitions": 4,
                "acquireTime": "2023-11-14T22:13:19.000000Z",
                "renewTime": "2023-11-14T22:13:19.000000Z",
            },
        },
    )
    tick(scaler_redis, api, Ledger())
    assert last(scaler_redis)["result"] == "not the holder of the lease"
    assert server.replicas("worker") == 2


@pytest.mark.parametrize(
    "error", [RedisConnectionError("gone"), OSError("gone")], ids=["redis", "socket"]
)
def test_a_ledger_that_cannot_be_read_holds(
    scaler_redis: Any, api: Api, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    server, _ = api
    server.add_deployment("worker", 6)
    ledger = Ledger()
    ledger.error = error
    decision = tick(scaler_redis, api, ledger)
    assert (decision.trust.level, decision.target) == (Level.HOLD, None)
    assert server.replicas("worker") == 6
    assert "scaler cannot read the ledger" in caplog.messages
    assert last(scaler_redis)["level"] == "hold"


def test_an_api_server_that_fails_holds_and_heals(
    scaler_redis: Any, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    server, _ = api
    server.add_deployment("worker", 6)
    fill(scaler_redis, server.now + 60 + KNOBS.stabilisation_seconds, 3, lambda _: 60)
    server.fail_with = 500
    decision = tick(scaler_redis, api, Ledger())
    assert (decision.trust.level, decision.before) == (Level.HOLD, None)
    assert {"scaler cannot read the deployment", "scaler cannot take the lease"} <= set(
        caplog.messages
    )
    server.fail_with = None
    server.now += 60
    assert tick(scaler_redis, api, Ledger()).target == 6
    server.now += KNOBS.stabilisation_seconds
    assert tick(scaler_redis, api, Ledger()).target == 3
    assert server.replicas("worker") == 3


def test_arrivals_that_cannot_be_read_leave_the_reactive_level(scaler_redis: Any, api: Api) -> None:
    server, _ = api
    server.add_deployment("worker", 2)
    scaler_redis.set(arrivals_key("normal", server.now, prefix=PREFIX), "not a hash")
    decision = tick(scaler_redis, api, Ledger(depth=40))
    assert decision.trust.level is Level.REACTIVE
    assert decision.target == 6  # 48 / 6 = 8, but at most 4 more at once


def test_scaling_in_spares_the_busy(scaler_redis: Any, api: Api) -> None:
    server, _ = api
    server.add_deployment("worker", 6)
    fill(scaler_redis, server.now + KNOBS.stabilisation_seconds, 3, lambda _: 60)
    busy = Ledger(running_by_worker={"worker-5": 4, "worker-6": 4})
    assert tick(scaler_redis, api, busy).target == 6
    server.now += KNOBS.stabilisation_seconds
    tick(scaler_redis, api, busy)
    left = {
        name: item["metadata"].get("annotations", {}).get(COST)
        for (plural, name), item in server.store.items()
        if plural == "pods"
    }
    assert len(left) == 3
    assert left["worker-5"] == left["worker-6"] == "4"


def test_pods_that_never_start_stop_the_growth(scaler_redis: Any, api: Api) -> None:
    server, _ = api
    server.add_deployment("worker", 2)
    server.start_delay = math.inf
    ledger = Ledger()
    targets = []
    for _ in range(60):
        ledger.change(depth=ledger.signals.depth + 60)
        server.now += 30
        targets.append(tick(scaler_redis, api, ledger).target)
    # Two that are ready, twice the step, and twice as many as are ready.
    assert targets[-1] == max(filter(None, targets)) == 14
    assert last(scaler_redis)["replicas"]["stuck"] == 12
    assert last(scaler_redis)["clamps"][-1] == "stuck_pods"
    server.start_delay = 0.0
    server.now += 30
    targets = [tick(scaler_redis, api, ledger).target]
    assert targets[-1] is not None
    assert targets[-1] > 14


def test_the_season_is_learnt_once_an_hour(scaler_redis: Any, api: Api) -> None:
    server, _ = api
    server.add_deployment("worker", 3)
    day = 86_400.0
    fill(
        scaler_redis,
        server.now,
        80,
        lambda moment: 60 + 50 * math.sin(2.0 * math.pi * moment / day),
    )
    tick(scaler_redis, api, Ledger())
    stored = parse_memory(load_memories(scaler_redis, prefix=PREFIX)["normal"])
    assert stored is not None
    assert stored.prior is not None
    truth = (60 + 50 * math.sin(2.0 * math.pi * (server.now + 3600) / day)) / 60
    assert stored.prior.at(server.now + 3600) == pytest.approx(truth, abs=0.1)
    record = last(scaler_redis)
    assert record["forecast"]["seasonal"] is not None
    assert record["level_reason"] == "season not yet compared with what came"
    server.now += 60
    tick(scaler_redis, api, Ledger())
    again = parse_memory(load_memories(scaler_redis, prefix=PREFIX)["normal"])
    assert again is not None
    assert again.prior == stored.prior


def test_a_fit_that_fails_leaves_the_last_season(
    scaler_redis: Any,
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, _ = api
    server.add_deployment("worker", 3)
    fill(scaler_redis, server.now, 80, lambda _: 60)
    tick(scaler_redis, api, Ledger())

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no convergence")

    monkeypatch.setattr(tick_module, "predict_traffic", fail)
    server.now += 3601
    tick(scaler_redis, api, Ledger())
    assert "scaler cannot fit the season" in caplog.messages
    stored = parse_memory(load_memories(scaler_redis, prefix=PREFIX)["normal"])
    assert stored is not None
    assert stored.prior is not None


def test_the_budget_goes_to_the_first_queue(scaler_redis: Any) -> None:
    settings = replace(
        SETTINGS,
        queues=(QueueTarget("high", "high", KNOBS), QueueTarget("low", "low", KNOBS)),
        limits=FleetLimits(max_replicas=6),
    )
    decisions = run_tick(settings, scaler_redis, 1_700_000_040.0, ledger=Ledger(depth=60))
    assert [one.target for one in decisions] == [5, 1]


def test_tokens_can_be_the_unit(scaler_redis: Any) -> None:
    now = 1_700_000_040.0
    for back in range(120):
        record_arrival(scaler_redis, "normal", 6000, now - 60.0 * (back + 1), prefix=PREFIX)
    settings = replace(SETTINGS, unit="tokens")
    [decision] = run_tick(settings, scaler_redis, now, ledger=Ledger(finished_tokens_total=10_000))
    # 100 tokens/s at 800 s / 10,000 tokens
    assert decision.outlook is not None
    assert decision.outlook.current == pytest.approx(100.0)
    assert decision.signals.seconds_per_unit == pytest.approx(0.08)
    [first] = run_tick(replace(settings, holder="a"), scaler_redis, now + 30, ledger=Ledger())
    assert first.signals.seconds_per_unit == pytest.approx(0.08)


def test_service_times_follow_the_ledger() -> None:
    ledger = Ledger().signals
    seen = update_service(ServiceTimes(5.0, 5.0), ledger, per_tokens=False)
    assert (seen.seconds_per_job, seen.jobs) == (8.0, 100.0)
    same = update_service(seen, ledger, per_tokens=False)
    assert same == seen
    later = replace(ledger, busy_seconds_total=1200.0, finished_total=200)
    assert update_service(seen, later, per_tokens=False).seconds_per_job == 6.0
    reset = replace(ledger, busy_seconds_total=1.0, finished_total=1)
    assert update_service(seen, reset, per_tokens=False).seconds_per_job == 8.0
    assert update_service(seen, reset, per_tokens=False).finished_seen == 1


def test_the_memory_survives_its_storage(scaler_redis: Any, api: Api) -> None:
    server, _ = api
    server.add_deployment("worker", 3)
    fill(scaler_redis, server.now, 80, lambda _: 60)
    for _ in range(3):
        server.now += 300
        tick(scaler_redis, api, Ledger())
    text = load_memories(scaler_redis, prefix=PREFIX)["normal"]
    memory = parse_memory(text)
    assert memory is not None
    assert memory.decisions.track.outcomes != ()
    assert json.loads(dump_memory(memory)) == json.loads(text)
    assert parse_memory(dump_memory(memory)) == memory


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 0}', '{"version": 1}'])
def test_a_damaged_memory_is_none(text: str) -> None:
    assert parse_memory(text) is None
