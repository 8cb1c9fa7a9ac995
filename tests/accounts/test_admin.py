"""Administration: who may do what to whom, and that it is written down."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient

from app.api import API
from app.cli.usage import draw
from app.refusals import describe
from tasks.database import Database
from tasks.ledger import Ledger
from tests.accounts.conftest import services_of, token
from tests.accounts.test_budgets import BODY, end_next, set_limits
from workers.usage import UsageWriter

ACME = "/v1/admin/tenants/acme"
OTHER = "/v1/admin/tenants/other"


@pytest.fixture
def boss(api: API) -> dict[str, str]:
    """An administrator of acme alone."""
    return token(api, user="boss", role="admin")


def test_a_user_administers_nothing(client: FlaskClient, ann: dict[str, str]) -> None:
    for path in ("/v1/admin/tenants", f"{ACME}/users", "/v1/admin/audit"):
        assert client.get(path, headers=ann).status_code == 403


def test_an_administrator_sees_only_its_tenant(client: FlaskClient, boss: dict[str, str]) -> None:
    tenants = client.get("/v1/admin/tenants", headers=boss).json
    assert tenants is not None
    assert [row["name"] for row in tenants["data"]] == ["acme"]
    assert client.get(f"{ACME}/users", headers=boss).status_code == 200
    missing = client.get("/v1/admin/tenants/nobody/users", headers=boss)
    hidden = client.get(f"{OTHER}/users", headers=boss)
    assert missing.status_code == hidden.status_code == 404
    assert client.get("/v1/admin/audit?tenant=other", headers=boss).status_code == 404
    for path, body in (
        ("/v1/admin/tenants", {"name": "new"}),
        (f"{ACME}/budgets", {"day_dollars": 1}),
    ):
        method = client.post if path.endswith("tenants") else client.put
        assert method(path, json=body, headers=boss).status_code == 403
    own = client.put(f"{ACME}/budgets?user=ann", json={"day_dollars": 1}, headers=boss)
    assert own.status_code == 200


def test_nobody_gives_what_they_do_not_have(client: FlaskClient, boss: dict[str, str]) -> None:
    client.post(f"{ACME}/users", json={"name": "zoe", "role": "admin"}, headers=boss)
    body = {"user": "zoe", "scopes": ["admin", "platform"]}
    assert client.post(f"{ACME}/clients", json=body, headers=boss).status_code == 403
    client.post(f"{ACME}/users", json={"name": "joe"}, headers=boss)
    body = {"user": "joe", "scopes": ["admin"]}
    assert client.post(f"{ACME}/clients", json=body, headers=boss).status_code == 422


def test_everything_is_in_the_audit_log(
    client: FlaskClient, platform: dict[str, str], boss: dict[str, str]
) -> None:
    client.post("/v1/admin/tenants", json={"name": "new", "title": "New"}, headers=platform)
    client.post(f"{ACME}/users", json={"name": "zoe"}, headers=boss)
    made = client.post(f"{ACME}/clients", json={"user": "zoe"}, headers=boss).json
    assert made is not None
    client.put(f"{ACME}/limits", json={"open_jobs": 5}, headers=platform)
    client.patch(ACME, json={"title": "Acme"}, headers=platform)
    answer = client.get("/v1/admin/audit", headers=boss)
    assert answer.json is not None
    rows = answer.json["data"]
    assert [row["action"] for row in rows] == [
        "tenant.change", "limits.set", "client.create", "user.create",
    ]  # fmt: skip
    assert rows[0]["actor_tenant"] == "ops"
    assert rows[2]["actor"] == "boss"
    assert made["client_secret"] not in answer.text
    page = client.get(f"/v1/admin/audit?before={rows[1]['id']}&limit=1", headers=boss).json
    assert page is not None
    assert [row["action"] for row in page["data"]] == ["client.create"]


def test_the_cache_of_everyone_is_for_the_platform(
    client: FlaskClient, platform: dict[str, str], boss: dict[str, str]
) -> None:
    path = "/v1/cache/stats?everyone=true"
    told = client.get(path, headers=platform).json
    assert (told["memory"], told["judged_pools"]) == ({"bytes": 0, "entries": 0}, [])
    assert client.get(path, headers=boss).status_code == 403
    assert "memory" not in client.get("/v1/cache/stats", headers=boss).json


def test_names_and_doubles_are_refused(client: FlaskClient, platform: dict[str, str]) -> None:
    def make(name: str) -> int:
        body = {"name": name}
        return client.post("/v1/admin/tenants", json=body, headers=platform).status_code

    assert make("acme") == 409
    assert make("not a name") == 422
    assert client.patch(f"{ACME}/users/no", json={}, headers=platform).status_code == 404
    assert client.delete(f"{ACME}/clients/no", headers=platform).status_code == 404
    bad = client.put(f"{ACME}/limits?user=ann", json={"waiting_jobs": 1}, headers=platform)
    assert bad.status_code == 422


def test_lists_say_what_was_set(client: FlaskClient, platform: dict[str, str]) -> None:
    body = {"day_dollars": 0.1, "month_dollars": None, "day_tokens": 5, "month_tokens": None}
    client.put(f"{ACME}/budgets?user=*", json=body, headers=platform)
    listed = client.get(f"{ACME}/budgets", headers=platform).json
    assert listed == {"data": [{"user": "*", **body}]}
    set_limits(client, platform, open_jobs=3)
    limits = client.get(f"{ACME}/limits", headers=platform).json
    assert limits is not None
    assert limits["data"][0]["open_jobs"] == 3
    client.post(f"{ACME}/users", json={"name": "zoe"}, headers=platform)
    client.post(f"{ACME}/clients", json={"user": "zoe", "title": "t"}, headers=platform)
    clients = client.get(f"{ACME}/clients", headers=platform).json
    assert clients is not None
    assert "secret" not in str(clients)
    assert clients["data"][0]["user"] == "zoe"


def submit(client: FlaskClient, headers: dict[str, str], **changes: Any) -> Any:
    return client.post("/v1/inference", json={**BODY, **changes}, headers=headers)


def test_tokens_a_minute(
    client: FlaskClient, platform: dict[str, str], ann: dict[str, str]
) -> None:
    set_limits(client, platform, tokens_per_minute=250)  # each submission counts 119
    assert [submit(client, ann).status_code for _ in range(3)] == [202, 202, 429]
    refused = submit(client, ann)
    assert refused.json["type"].endswith("tokens-limited")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    large = submit(client, ann, max_tokens=1000)
    assert large.status_code == 422
    assert large.json["type"].endswith("request-over-token-limit")


def test_open_and_waiting_jobs(
    api: API, client: FlaskClient, platform: dict[str, str], ann: dict[str, str]
) -> None:
    set_limits(client, platform, user="ann", open_jobs=1)
    assert [submit(client, ann).status_code for _ in range(2)] == [202, 429]
    bob = token(api, user="bob")
    set_limits(client, platform, open_jobs=3)
    assert [submit(client, bob).status_code for _ in range(3)] == [202, 202, 429]
    set_limits(client, platform, waiting_jobs=3)
    refused = submit(client, bob)
    assert refused.status_code == 429
    assert refused.json["type"].endswith("queue-full")
    assert int(refused.headers["Retry-After"]) == 10  # nothing has drained yet
    end_next(services_of(api).ledger, 0.0)
    assert submit(client, bob).status_code == 202
    assert int(submit(client, bob).headers["Retry-After"]) > 10  # one a minute was measured


def test_usage_by_group_as_json_and_csv(
    api: API, client: FlaskClient, boss: dict[str, str], ann: dict[str, str],
    platform: dict[str, str], redis_client: redis.Redis, prefix: str, database: Database,
) -> None:  # fmt: skip
    ledger: Ledger = services_of(api).ledger
    for user, cost in (("ann", 0.1), ("ann", 0.2), ("bob", 0.000_000_001)):
        submit(client, token(api, user=user))
        end_next(ledger, cost)
    UsageWriter(redis_client, prefix, database).write()
    found = client.get("/v1/usage?by=user,model", headers=boss).json
    assert found is not None
    assert [(g["group"]["user"], g["jobs"], g["cost"]) for g in found["data"]] == [
        ("ann", 2, 0.3), ("bob", 1, 1e-9),
    ]  # fmt: skip
    assert found["total"]["cost"] == 0.300000001
    own = client.get("/v1/usage?user=bob", headers=ann).json
    assert own is not None
    assert own["total"]["jobs"] == 2  # her own, whatever she asks for
    text = client.get("/v1/usage?by=user&format=csv", headers=boss).text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["cost"] for row in rows] == ["0.300000000", "0.000000001"]
    assert client.get("/v1/usage?tenant=acme", headers=platform).status_code == 200
    assert client.get("/v1/usage?tenant=other", headers=boss).status_code == 403
    assert client.get("/v1/usage?by=secret", headers=boss).status_code == 422
    wrong = client.get("/v1/usage?first=2026-02-01&last=2026-01-01", headers=boss)
    assert wrong.status_code == 422
    assert draw(found, ["user", "model"]).row_count == 2


def test_a_database_that_is_down_is_said(
    make_api: Callable[..., API], redis_client: redis.Redis, database: Database
) -> None:
    api = make_api(database_url="postgresql://postgres@127.0.0.1:1/postgres", prefix="down:")
    redis_client.set("down:revoked:version", 1, ex=60)
    answer = submit(api.test_client(), token(api))
    assert answer.status_code == 503
    assert answer.json["type"].endswith("accounts-unavailable")
    assert answer.headers["Retry-After"] == "5"


def test_a_budget_says_when_it_starts_anew() -> None:
    import datetime as dt

    refusal = {
        "kind": "budget", "scope": "user", "unit": "tokens", "period": "month", "limit": 10,
        "spent": 10, "reserved": 0, "asked": 1,
    }  # fmt: skip
    now = dt.datetime(2026, 12, 31, 23, 59, 30, tzinfo=dt.UTC)
    status, kind, detail, seconds = describe(refusal, now)
    assert (status, kind, seconds) == (402, "budget-exhausted", 30)
    assert "2027-01-01" in detail
    assert describe({**refusal, "spent": 0, "reserved": 10}, now)[3] == 5
