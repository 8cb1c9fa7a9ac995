"""Budgets: reserved at admission, settled at the end, never overspent."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest
import redis
from flask.testing import FlaskClient

from app.api import API
from tasks.bills import Bill
from tasks.inference import InferenceSubmission, Priority
from tasks.jobs import JobState
from tasks.ledger import Ledger
from tasks.money import nano
from tests.accounts.conftest import services_of, token

PROBLEM = "urn:inferenceflow:problem:"
BODY = {"prompt": "hello", "max_tokens": 100, "model_preference": "gpt-4.1"}


def set_budget(client: FlaskClient, headers: dict[str, str], user: str = "", **bounds: Any) -> None:
    answer = client.put(
        "/v1/admin/tenants/acme/budgets", query_string={"user": user}, json=bounds, headers=headers
    )
    assert answer.status_code == 200, answer.json


def set_limits(client: FlaskClient, headers: dict[str, str], user: str = "", **bounds: Any) -> None:
    answer = client.put(
        "/v1/admin/tenants/acme/limits", query_string={"user": user}, json=bounds, headers=headers
    )
    assert answer.status_code == 200, answer.json


def reserve_nano(api: API, body: dict[str, Any] = BODY) -> int:
    return services_of(api).prices.reserve(InferenceSubmission(**body)).nano


def result(cost: float, tokens: tuple[int, int] = (10, 20), **more: Any) -> bytes:
    return orjson.dumps(
        {
            "response": "hi",
            "provider": "openai",
            "model": "gpt-4.1",
            "usage": {"input_tokens": tokens[0], "output_tokens": tokens[1], "cached_tokens": 0},
            "cost": cost,
            "saved": 0.0,
            "cache_hit": False,
            **more,
        }
    )


def end_next(ledger: Ledger, cost: float, state: JobState = JobState.SUCCEEDED, **more: Any) -> str:
    job = ledger.claim(Priority.NORMAL, "w", 10)
    assert job is not None
    assert ledger.finish(job, state, result=result(cost, **more))
    return job.id


def spent(api: API, tenant: str = "acme") -> dict[str, int]:
    current = services_of(api)
    period = time.strftime("%Y%m%d", time.gmtime())
    found = current.job_redis.hgetall(current.ledger.key("spent", tenant, period))
    return {k.decode(): int(v) for k, v in found.items() if k.endswith((b":n", b":k"))}


def reserved(api: API) -> dict[str, int]:
    current = services_of(api)
    found = current.job_redis.hgetall(current.ledger.key("reserved", "acme"))
    return {k.decode(): int(v) for k, v in found.items()}


def events(api: API) -> list[dict[str, str]]:
    current = services_of(api)
    rows = current.job_redis.xrange(current.ledger.key("events"))
    return [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in rows]


@pytest.fixture
def ledger(api: API) -> Ledger:
    return services_of(api).ledger


def test_200_at_once_overspend_nothing(
    api: API, client: FlaskClient, platform: dict[str, str], ann: dict[str, str], ledger: Ledger
) -> None:
    one = reserve_nano(api)
    fits = 7
    set_budget(client, platform, day_dollars=(one * fits + one // 2) / 1e9)

    def submit(_: int) -> tuple[int, str]:
        answer = api.test_client().post("/v1/inference", json=BODY, headers=ann)
        assert answer.json is not None
        return answer.status_code, answer.json.get("type", "")

    with ThreadPoolExecutor(32) as pool:
        outcomes = Counter(pool.map(submit, range(200)))
    assert outcomes == {(202, ""): fits, (402, f"{PROBLEM}budget-exhausted"): 200 - fits}
    # Even if every one of them costs all that was reserved, the budget holds.
    for _ in range(fits):
        end_next(ledger, one / 1e9)
    assert spent(api)["t:n"] == one * fits
    assert reserved(api) == {}


def test_a_job_settles_to_what_it_cost(
    api: API, client: FlaskClient, platform: dict[str, str], ann: dict[str, str], ledger: Ledger
) -> None:
    set_budget(client, platform, day_dollars=1)
    assert client.post("/v1/inference", json=BODY, headers=ann).status_code == 202
    held = reserved(api)
    assert held["t:n"] == held["u:ann:n"] == reserve_nano(api) > 0
    assert held["u:ann:j"] == 1
    end_next(ledger, 0.000_123_456)
    assert reserved(api) == {}
    assert spent(api) == {"t:n": 123_456, "t:k": 30, "u:ann:n": 123_456, "u:ann:k": 30}


@pytest.mark.parametrize("how", ["cancelled", "failed", "expired"])
def test_an_end_without_an_answer_lets_the_reservation_go(
    how: str,
    api: API,
    client: FlaskClient,
    ann: dict[str, str],
    ledger: Ledger,
) -> None:
    answer = client.post("/v1/inference", json=BODY, headers=ann)
    assert answer.json is not None
    assert reserved(api)["u:ann:j"] == 1
    if how == "cancelled":
        ledger.cancel(answer.json["id"], "acme")
    else:
        job = ledger.claim(Priority.NORMAL, "w", 10)
        assert job is not None
        ledger.finish(job, JobState(how), error=b"{}")
    assert reserved(api) == {}
    assert spent(api) == {}


def test_a_deferred_job_keeps_its_reservation(
    api: API, client: FlaskClient, ann: dict[str, str], ledger: Ledger
) -> None:
    client.post("/v1/inference", json=BODY, headers=ann)
    before = reserved(api)
    job = ledger.claim(Priority.NORMAL, "w", 10)
    assert job is not None
    ledger.defer(job, 0.0, counts=True)
    assert reserved(api) == before


def test_a_cache_hit_costs_nothing(
    api: API, client: FlaskClient, platform: dict[str, str], ann: dict[str, str], ledger: Ledger
) -> None:
    set_budget(client, platform, day_dollars=1, day_tokens=10_000)
    client.post("/v1/inference", json=BODY, headers=ann)
    end_next(ledger, 0.0, cache_hit=True, saved=0.5, cache={"layer": "semantic"})
    assert spent(api) == {}
    assert reserved(api) == {}


def test_a_users_budget_binds_beside_the_tenants(
    api: API, client: FlaskClient, platform: dict[str, str], ann: dict[str, str]
) -> None:
    one = reserve_nano(api)
    set_budget(client, platform, day_dollars=one * 3 / 1e9)
    set_budget(client, platform, user="*", day_dollars=one / 1e9)
    set_budget(client, platform, user="bob", day_dollars=one * 2 / 1e9)
    bob = token(api, user="bob")

    def submit(headers: dict[str, str]) -> int:
        return client.post("/v1/inference", json=BODY, headers=headers).status_code

    assert [submit(ann), submit(ann)] == [202, 402]
    assert [submit(bob), submit(bob), submit(bob)] == [202, 202, 402]
    eve = token(api, user="eve")
    refused = client.post("/v1/inference", json=BODY, headers=eve)
    assert refused.status_code == 402
    assert refused.json is not None
    assert "your tenant" in refused.json["detail"]
    assert submit(token(api, tenant="other")) == 202


def test_token_budgets_and_month(
    api: API, client: FlaskClient, platform: dict[str, str], ann: dict[str, str], ledger: Ledger
) -> None:
    set_budget(client, platform, month_tokens=150)
    assert client.post("/v1/inference", json=BODY, headers=ann).status_code == 202
    end_next(ledger, 0.0, tokens=(10, 30))
    refused = client.post("/v1/inference", json=BODY, headers=ann)
    assert refused.status_code == 402
    assert refused.json is not None
    assert "month's budget" in refused.json["detail"]
    assert "40 tokens spent" in refused.json["detail"]
    assert int(refused.headers["Retry-After"]) > 0


def test_80_percent_and_100_percent_are_told_once(
    api: API, client: FlaskClient, platform: dict[str, str], ann: dict[str, str], ledger: Ledger
) -> None:
    set_budget(client, platform, day_dollars=1)
    for cost, told_by_then in ((0.79, 0), (0.02, 1), (0.02, 1)):
        assert client.post("/v1/inference", json=BODY, headers=ann).status_code == 202
        end_next(ledger, cost)
        assert len(events(api)) == told_by_then
    told = [event for event in events(api) if event["type"] == "budget.threshold"]
    assert [(e["tenant"], e["user"]) for e in told] == [("acme", "")]
    assert orjson.loads(told[0]["data"])["percent"] == 81
    client.post("/v1/inference", json=BODY, headers=ann)
    end_next(ledger, 0.17)
    for _ in range(2):
        assert client.post("/v1/inference", json=BODY, headers=ann).status_code == 402
    assert [e["type"] for e in events(api)] == ["budget.threshold", "budget.exhausted"]


def test_a_flush_does_not_forget_what_was_spent(
    api: API, client: FlaskClient, platform: dict[str, str], ann: dict[str, str],
    ledger: Ledger, redis_client: redis.Redis, prefix: str,
) -> None:  # fmt: skip
    from workers.usage import UsageWriter

    one = reserve_nano(api)
    set_budget(client, platform, day_dollars=(one * 3) / 1e9)
    for _ in range(2):
        assert client.post("/v1/inference", json=BODY, headers=ann).status_code == 202
        end_next(ledger, one / 1e9)
    UsageWriter(redis_client, prefix, services_of(api).database).write()
    before = spent(api)
    for key in redis_client.scan_iter(f"{prefix}*"):
        redis_client.delete(key)
    assert client.post("/v1/inference", json=BODY, headers=ann).status_code == 202
    assert spent(api) == before
    assert client.post("/v1/inference", json=BODY, headers=ann).status_code == 402


def test_lost_counters_are_made_again_from_sql_and_outbox(
    api: API, client: FlaskClient, platform: dict[str, str], ann: dict[str, str],
    ledger: Ledger, redis_client: redis.Redis, prefix: str,
) -> None:  # fmt: skip
    from workers.usage import UsageWriter

    set_budget(client, platform, day_dollars=5)
    writer = UsageWriter(redis_client, prefix, services_of(api).database)
    for cost, write in ((0.1, True), (0.2, False)):
        assert client.post("/v1/inference", json=BODY, headers=ann).status_code == 202
        end_next(ledger, cost)
        if write:
            writer.write()
    before = spent(api)
    for key in redis_client.scan_iter(f"{prefix}spent:*"):
        redis_client.delete(key)
    assert client.post("/v1/inference", json=BODY, headers=ann).status_code == 202
    assert spent(api) == before == {
        "t:n": nano(0.3), "u:ann:n": nano(0.3), "t:k": 60, "u:ann:k": 60,
    }  # fmt: skip


def test_a_raised_budget_holds_at_once(
    api: API, client: FlaskClient, platform: dict[str, str], ann: dict[str, str]
) -> None:
    set_budget(client, platform, day_dollars=0)
    assert client.post("/v1/inference", json=BODY, headers=ann).status_code == 402
    set_budget(client, platform, day_dollars=1)
    assert client.post("/v1/inference", json=BODY, headers=ann).status_code == 202


def test_a_repeated_key_is_not_held_twice(
    api: API, client: FlaskClient, platform: dict[str, str], ann: dict[str, str]
) -> None:
    set_budget(client, platform, day_dollars=reserve_nano(api) / 1e9)
    for _ in range(2):
        answer = client.post("/v1/inference", json=BODY, headers={**ann, "Idempotency-Key": "one"})
        assert answer.status_code == 202
    assert reserved(api)["u:ann:j"] == 1


def test_bills_go_there_and_back() -> None:
    bill = Bill.of(result(0.25, cache_hit=True, saved=0.1, cache={"layer": "exact"}))
    assert Bill.load(bill.dump()) == bill
    assert bill.cache_layer == "exact"
    assert bill.billable_tokens == 0
    assert Bill.load(b"") == Bill.of(b'"text"') == Bill()
