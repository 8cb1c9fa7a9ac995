from __future__ import annotations

import base64
import json
import math
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import redis
from flask.testing import FlaskClient

from config.settings import Settings
from tasks.breakers import target_key
from tasks.deliveries import Claimed, Deliveries, delivery_id
from tasks.inference import Attempt, Priority, Usage
from tasks.jobs import JobState
from tasks.ledger import Ledger, Limits, NewJob
from tasks.metrics import WebhookMetrics
from tasks.recent import RATIO, Recent, bucket_of, seconds_of
from tasks.scaler_state import count_tick
from tests.observe.conftest import Observed, read_samples
from workers.scaler import run_tick
from workers.scaler.ledger_signals import LedgerSignalsReader
from workers.scaler.live import configured


def submit(ledger: Ledger, lane: Priority = Priority.NORMAL, max_attempts: int = 3) -> str:
    snapshot, _ = ledger.submit(
        NewJob(
            tenant="acme",
            user="ann",
            lane=lane,
            request=b'{"prompt": "a secret prompt"}',
            fingerprint="f",
            request_id="req_1",
            deadline_seconds=60,
            retention_seconds=600,
            max_attempts=max_attempts,
        ),
        limits=Limits(),
    )
    return snapshot.job.id


def value(samples: dict, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


@pytest.mark.parametrize("seconds", [0.0011, 0.02, 0.5, 3.0, 59.0, 1800.0])
def test_a_bucket_is_off_by_half_its_width_at_most(seconds: float) -> None:
    assert seconds_of(bucket_of(seconds)) == pytest.approx(seconds, rel=RATIO**0.5 - 1 + 1e-9)


def test_percentiles_over_two_processes(observed: Observed, redis_client, observe_prefix) -> None:
    other = Recent(redis_client, observe_prefix)
    for number in range(1, 101):
        observed.metrics.record_request_latency(number / 10, "openai")
        other.latency("latency:local", number / 100)
    observed.recent.flush()
    other.flush()
    window = observed.metrics.get_performance_summary()["windows"]["5m"]
    assert window["latency_seconds"]["count"] == 100
    for name, exact in (("p50", 5.0), ("p95", 9.5), ("p99", 9.9)):
        assert window["latency_seconds"][name] == pytest.approx(exact, rel=0.03)
        by_provider = window["latency_seconds_by_provider"]
        assert by_provider["local"][name] == pytest.approx(exact / 10, rel=0.03)


def test_each_window_has_what_is_no_older(observed: Observed) -> None:
    """1 to 100 seconds a minute ago, 101 to 200 half an hour ago, 201 to 300 five hours ago."""
    now, recent = time.time(), observed.recent
    for group, minutes in enumerate((1, 30, 300)):
        for number in range(1, 101):
            recent._noted.append((now - 60 * minutes, "latency", float(100 * group + number)))
            recent._noted.append((now - 60 * minutes, f"lane:{('high', 'low')[number % 2]}", None))
            recent._noted.append((now - 60 * minutes, "ended:succeeded", None))
    recent.flush()
    windows = observed.metrics.get_performance_summary()["windows"]
    for name, count, seconds in (("5m", 100, 300), ("1h", 200, 3_600), ("24h", 300, 86_400)):
        window = windows[name]
        assert window["latency_seconds"].pop("count") == count
        for percentile, share in (("p50", 0.50), ("p95", 0.95), ("p99", 0.99)):
            exact = math.ceil(share * count)  # the values are 1, 2, 3 ...
            assert window["latency_seconds"][percentile] == pytest.approx(exact, rel=0.025)
        each = round(count / 2 / seconds, 4)
        assert window["throughput_per_second"] == round(count / seconds, 4)
        assert window["throughput_per_second_by_priority"] == {"high": each, "low": each}


def test_the_day_forgets_what_is_older(observed: Observed, redis_client, observe_prefix) -> None:
    observed.metrics.record_request_latency(1.0, "openai")
    observed.recent.flush()
    names = list(redis_client.scan_iter(f"{observe_prefix}recent:*"))
    assert len(names) == 2
    assert sorted(redis_client.ttl(name) // 3600 for name in names) in ([1, 24], [2, 25], [1, 25])


def test_nothing_counted_is_not_zero_seconds(observed: Observed) -> None:
    day = observed.metrics.get_performance_summary()["windows"]["24h"]
    assert day["latency_seconds"] == {"count": 0, "p50": None, "p95": None, "p99": None}
    assert day["cache"]["hit_rate"] is None


def test_numbers_outlive_an_outage_of_redis(observe_prefix, redis_client) -> None:
    nowhere = redis.Redis(port=1, socket_connect_timeout=0.2)
    recent = Recent(nowhere, observe_prefix)
    recent.count("ended:succeeded")
    recent.flush()
    recent._redis = redis_client
    recent.flush()
    assert recent.summary()["windows"]["5m"]["ended"] == {"succeeded": 1}


def test_cache_events(observed: Observed) -> None:
    metrics = observed.metrics
    for event in (
        "hit_exact",
        "hit_semantic",
        "miss",
        "miss",
        "veto_numbers",
        "skipped_busy",
        "failed_lookup",
    ):
        metrics.record_cache_event(event)
    samples = observed.samples()
    name = "inferenceflow_cache_lookups_total"
    assert value(samples, name, layer="exact", verdict="hit") == 1
    assert value(samples, name, layer="semantic", verdict="hit") == 1
    assert value(samples, name, layer="all", verdict="miss") == 2
    assert value(samples, name, layer="semantic", verdict="veto_numbers") == 1
    assert value(samples, name, layer="semantic", verdict="skipped_busy") == 1
    assert value(samples, "inferenceflow_cache_failures_total", operation="lookup") == 1
    observed.recent.flush()
    assert observed.recent.summary()["windows"]["1h"]["cache"]["hit_rate"] == 0.5


def test_attempts_and_errors(observed: Observed) -> None:
    for status in ("ok", "timeout", "timeout", "cancelled"):
        observed.metrics.record_attempt(
            Attempt(provider="openai", model="m", status=status, latency_ms=500)
        )
    samples = observed.samples()
    labels = {"provider": "openai", "model": "m"}
    assert value(samples, "inferenceflow_provider_call_duration_seconds_count", **labels) == 4
    errors = {k: v for k, v in samples.items() if k[0] == "inferenceflow_provider_errors_total"}
    assert list(errors.values()) == [2]


def test_tenants_beyond_the_bound_share_one_label(observed: Observed) -> None:
    for tenant in ("a", "b", "c", "d", "a"):
        observed.metrics.record_completion(
            tenant, "openai", "m", Usage(input_tokens=10, output_tokens=1), 0.5, 0.1
        )
    samples = observed.samples()
    cost = {
        dict(labels)["tenant"]: v
        for (name, labels), v in samples.items()
        if name == "inferenceflow_cost_dollars_total"
    }
    assert cost == {"a": 1.0, "b": 0.5, "other": 1.0}


def test_the_api_shows_what_the_ledger_did(
    make_client: Callable[..., FlaskClient], observe_ledger: Ledger
) -> None:
    for _ in range(3):
        submit(observe_ledger)
    submit(observe_ledger, Priority.HIGH)
    job = observe_ledger.claim(Priority.NORMAL, "w", 10)
    assert job is not None
    observe_ledger.finish(job, JobState.SUCCEEDED, result=b"{}")
    for counts in (True, False):
        job = observe_ledger.claim(Priority.NORMAL, "w", 10)
        assert job is not None
        observe_ledger.defer(job, 30, counts=counts)
    assert observe_ledger.claim(Priority.HIGH, "w", 10) is not None
    samples = read_samples(make_client().get("/v1/metrics").text)
    prefix = "inferenceflow_"
    assert value(samples, f"{prefix}jobs_submitted_total", priority="normal") == 3
    assert value(samples, f"{prefix}jobs_retried_total", priority="normal") == 1
    assert value(samples, f"{prefix}jobs_deferred_total", priority="normal") == 1
    ended = {"priority": "normal", "state": "succeeded"}
    assert value(samples, f"{prefix}jobs_ended_total", **ended) == 1
    assert value(samples, f"{prefix}jobs_running", priority="high") == 1
    assert value(samples, f"{prefix}queue_depth", priority="high") == 0
    assert value(samples, f"{prefix}redis_memory_used_bytes", store="jobs") > 0


def test_a_recovered_job_is_counted(observe_ledger: Ledger, redis_client: redis.Redis) -> None:
    job_id = submit(observe_ledger)
    assert observe_ledger.claim(Priority.NORMAL, "w", 10) is not None
    redis_client.zadd(observe_ledger.key("due"), {job_id: 1})
    observe_ledger.sweep()
    assert redis_client.hget(observe_ledger.key("totals"), "recovered:normal") == b"1"


def test_breakers_that_were_used(
    make_client: Callable[..., FlaskClient], redis_client: redis.Redis, observe_prefix: str
) -> None:
    client = make_client()
    provider, model = client.application.extensions["inferenceflow.metrics"].targets[0]
    key = target_key(provider, model, f"{observe_prefix}router:")
    redis_client.hset(key, mapping={"until": 9e15, "fails": 5, "opens": 1})
    samples = read_samples(client.get("/v1/metrics").text)
    state = {k: v for k, v in samples.items() if k[0] == "inferenceflow_breaker_state"}
    assert list(state.values()) == [2]
    shown = {one["name"]: one for one in client.get("/v1/providers").json["data"]}
    assert shown[provider]["circuits"][0]["state"] == "open"


def test_webhooks_that_are_due(
    make_client: Callable[..., FlaskClient], redis_client: redis.Redis, observe_prefix: str
) -> None:
    redis_client.zadd(f"{observe_prefix}hook:ring", {"e1": 1_000})
    redis_client.zadd(f"{observe_prefix}hook:due:e1", {"d1": 1_000, "d2": 2_000, "later": 9e15})
    samples = read_samples(make_client().get("/v1/metrics").text)
    assert value(samples, "inferenceflow_webhook_backlog") == 2
    assert value(samples, "inferenceflow_webhook_oldest_seconds") > 1e8


def test_webhooks_of_an_endpoint_that_never_answers(
    make_client: Callable[..., FlaskClient], redis_client: redis.Redis, observe_prefix: str
) -> None:
    """It is looked at again and again, and always put off: its messages grow old all the same."""
    deliveries = Deliveries(redis_client, observe_prefix)
    redis_client.hset(
        f"{observe_prefix}hook:endpoint:e1",
        mapping={"state": "enabled", "tenant": "acme", "url": "https://receiver.example"},
    )
    for number in range(5):
        deliveries.add(
            f"event-{number}",
            endpoint="e1",
            tenant="acme",
            event_type="job.succeeded",
            payload=b"{}",
        )
    first = {delivery_id("event-4", "e1"): 1_000, delivery_id("event-0", "e1"): 2_000}
    redis_client.zadd(f"{observe_prefix}hook:due:e1", first)

    def claim() -> Claimed | None:
        return deliveries.claim(lease_seconds=60, per_endpoint=2, per_tenant=2)

    assert claim() is not None
    assert claim() is not None
    assert claim() is None
    samples = read_samples(make_client().get("/v1/metrics").text)
    assert value(samples, "inferenceflow_webhook_backlog") == 3
    assert value(samples, "inferenceflow_webhook_oldest_seconds") < 60
    redis_client.zadd(
        f"{observe_prefix}hook:due:e1", {delivery_id("event-3", "e1"): 1_000}, xx=True
    )
    assert claim() is None
    samples = read_samples(make_client().get("/v1/metrics").text)
    assert value(samples, "inferenceflow_webhook_oldest_seconds") > 1e8


def test_a_part_that_cannot_be_read_is_left_out(make_client: Callable[..., FlaskClient]) -> None:
    client = make_client(cache_redis_url="redis://127.0.0.1:1/0")
    answer = client.get("/v1/metrics")
    assert answer.status_code == 200
    samples = read_samples(answer.text)
    assert value(samples, "inferenceflow_state_readable", part="cache") == 0
    assert value(samples, "inferenceflow_redis_memory_used_bytes", store="jobs") > 0
    assert value(samples, "inferenceflow_state_readable", part="queues") == 1


def test_the_route_is_counted_not_the_path(make_client: Callable[..., FlaskClient]) -> None:
    client = make_client()
    for number in range(3):
        client.get(f"/v1/jobs/job_{number:032x}")
        client.get(f"/nowhere/{number}")
    samples = read_samples(client.get("/v1/metrics").text)
    counts = {
        dict(labels)["route"]: amount
        for (name, labels), amount in samples.items()
        if name == "inferenceflow_http_request_duration_seconds_count"
    }
    assert counts == {"/v1/jobs/<job_id>": 3, "none": 3}


def test_the_metrics_token(make_client: Callable[..., FlaskClient]) -> None:
    client = make_client(metrics_token="scrape-me")
    assert client.get("/v1/metrics").status_code == 401
    headers = {"Authorization": "Bearer scrape-me"}
    assert client.get("/v1/metrics", headers=headers).status_code == 200


def test_names_follow_prometheus_rules(
    make_client: Callable[..., FlaskClient],
    observed: Observed,
    observe_ledger: Ledger,
    promtool: str,
) -> None:
    WebhookMetrics(observed.registry).record_webhook_delivery("delivered", 0.1)
    observed.metrics.record_request_latency(1.0, "openai")
    submit(observe_ledger)
    from prometheus_client import generate_latest

    texts = [make_client().get("/v1/metrics").data, generate_latest(observed.registry)]
    for text in texts:
        assert text.count(b"# TYPE inferenceflow_") >= 10
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=text, capture_output=True, check=False
        )
        ours = [line for line in checked.stderr.decode().splitlines() if "inferenceflow_" in line]
        assert not ours


def test_the_scalers_numbers_are_there_after_a_tick_and_follow_the_rules(
    make_client: Callable[..., FlaskClient],
    observe_ledger: Ledger,
    observe_prefix: str,
    redis_client: redis.Redis,
    promtool: str,
) -> None:
    settings = replace(
        configured(Settings(_env_file=None)),  # type: ignore[call-arg]
        prefix=observe_prefix,
    )
    reader = LedgerSignalsReader(redis_client, observe_prefix)
    now = time.time()
    for step in range(2):
        submit(observe_ledger)
        assert run_tick(settings, redis_client, now + 60 * step, ledger=reader)
    count_tick(
        redis_client,
        actions=[("normal", "up", "backlog")],
        replica_seconds={},
        cost={},
        prefix=observe_prefix,
    )
    text = make_client().get("/v1/metrics").data
    for name in ("desired_replicas", "forecast_p50", "forecast_upper", "arrival_rate", "beta"):
        assert f'inferenceflow_scaler_{name}{{queue="normal"}}'.encode() in text, name
    assert b'inferenceflow_scaler_actions_total{direction="up",queue="normal"' in text
    assert b'inferenceflow_state_readable{part="scaler"} 1.0' in text
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )
    ours = [line for line in checked.stderr.decode().splitlines() if "inferenceflow_scaler" in line]
    assert not ours


def test_no_prompt_is_in_any_metric(
    make_client: Callable[..., FlaskClient], observe_ledger: Ledger
) -> None:
    submit(observe_ledger)
    assert b"secret prompt" not in make_client().get("/v1/metrics").data


def test_state_as_json(make_client: Callable[..., FlaskClient], observe_ledger: Ledger) -> None:
    submit(observe_ledger)
    client = make_client()
    assert client.get("/v1/queues").json["normal"]["ready"] == 1
    assert set(client.get("/v1/stats").json["windows"]) == {"5m", "1h", "24h"}
    assert client.get("/v1/cache/stats").json["lookups"] == 0
    assert client.get("/v1/scaler?log=5").json["queues"] == {}
    assert client.get("/v1/scaler?log=-1").status_code == 422


def test_a_celery_message_carries_no_prompt(
    observe_ledger: Ledger, redis_client: redis.Redis
) -> None:
    """So Flower and Celery's events, which show what a message carries, cannot show one."""
    submit(observe_ledger)
    messages = redis_client.lrange(observe_ledger.key("broker:inference.normal"), 0, -1)
    assert len(messages) == 1
    envelope = json.loads(messages[0])
    body = base64.b64decode(envelope["body"])
    assert json.loads(body)[:2] == [[], {}]
    assert b"secret prompt" not in messages[0] + body
