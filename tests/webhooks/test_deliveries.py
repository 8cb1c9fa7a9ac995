"""The delivery ledger on a real Redis, step by step."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from standardwebhooks import Webhook

from tasks.deliveries import (
    KEPT_ATTEMPTS,
    SCHEDULE,
    Claimed,
    Deliveries,
    Delivery,
    EndpointDisabledError,
    Outcome,
    UnknownDeliveryError,
)
from tasks.webhooks import (
    MAX_ENDPOINTS,
    TooManyEndpointsError,
    UnknownEndpointError,
    Webhooks,
    new_secret,
    signed_headers,
)


@pytest.fixture
def hooks(redis_client: redis.Redis, prefix: str) -> Webhooks:
    return Webhooks(redis_client, prefix)


@pytest.fixture
def deliveries(redis_client: redis.Redis, prefix: str) -> Deliveries:
    return Deliveries(redis_client, prefix)


def endpoint(hooks: Webhooks, tenant: str = "acme") -> str:
    return hooks.create(tenant, "https://example.com/hook", events=["*"])[0].id


def add(deliveries: Deliveries, event: str, target: str, tenant: str = "acme") -> str:
    return deliveries.add(
        event, endpoint=target, tenant=tenant, event_type="job.succeeded", payload=b"{}"
    )


def claim(deliveries: Deliveries, per_endpoint: int = 4, per_tenant: int = 16) -> Claimed | None:
    return deliveries.claim(lease_seconds=30, per_endpoint=per_endpoint, per_tenant=per_tenant)


def claimed(deliveries: Deliveries) -> Delivery:
    found = claim(deliveries, per_endpoint=10)
    assert found is not None
    return found.delivery


def settle(
    deliveries: Deliveries, delivery: Delivery, outcome: Outcome, next_at: int = 0, **kw: Any
) -> bool:
    attempt = {"number": delivery.fence, "status": 500}
    return deliveries.settle(
        delivery, outcome, attempt=attempt, next_at=next_at,
        disable_seconds=kw.get("disable_seconds", 1000),
    )  # fmt: skip


def test_an_event_becomes_one_delivery_however_often_it_is_read(
    hooks: Webhooks, deliveries: Deliveries
) -> None:
    target = endpoint(hooks)
    first = add(deliveries, "ended-1-0", target)
    assert add(deliveries, "ended-1-0", target) == first
    assert add(deliveries, "ended-2-0", target) != first
    assert len(deliveries.page(target)) == 2
    listed = {one.id for one, _ in deliveries.page(target)}
    assert {claimed(deliveries).id, claimed(deliveries).id} == listed
    assert claim(deliveries) is None


def test_a_failure_is_tried_again_on_time_with_the_same_id(
    hooks: Webhooks, deliveries: Deliveries, redis_client: redis.Redis, prefix: str
) -> None:
    target = endpoint(hooks)
    add(deliveries, "e", target)
    delivery = claimed(deliveries)
    later = delivery.since + 5_000
    assert settle(deliveries, delivery, "retry", later)
    assert claim(deliveries) is None
    ((waiting, log),) = deliveries.page(target)
    assert (waiting.state, waiting.due_at, [one["number"] for one in log]) == (
        "retrying", later, [1],
    )  # fmt: skip
    _as_if_due(redis_client, prefix, target, delivery.id)
    again = claimed(deliveries)
    assert (again.id, again.payload, again.fence, again.tries) == (
        delivery.id, delivery.payload, 2, 2,
    )  # fmt: skip
    assert settle(deliveries, again, "delivered")
    ((done, log),) = deliveries.page(target)
    assert (done.state, done.due_at, len(log)) == ("delivered", None, 2)


def test_the_outcome_of_an_attempt_that_was_taken_over_is_refused(
    hooks: Webhooks, deliveries: Deliveries, redis_client: redis.Redis, prefix: str
) -> None:
    target = endpoint(hooks)
    add(deliveries, "e", target)
    frozen = claimed(deliveries)
    _as_if_due(redis_client, prefix, target, frozen.id)
    second = claimed(deliveries)
    assert not settle(deliveries, frozen, "failed")
    assert settle(deliveries, second, "delivered")


def test_no_more_at_once_than_the_share_of_endpoint_and_tenant(
    hooks: Webhooks, deliveries: Deliveries, redis_client: redis.Redis, prefix: str
) -> None:
    slow, other = endpoint(hooks), endpoint(hooks)
    stranger = endpoint(hooks, "globex")
    for number in range(5):
        add(deliveries, f"s{number}", slow)
        add(deliveries, f"o{number}", other)
    add(deliveries, "x", stranger, "globex")
    taken = []
    for _ in range(10):
        redis_client.zadd(f"{prefix}hook:ring", {slow: 1, other: 2, stranger: 3}, xx=True)
        found = claim(deliveries, per_endpoint=2, per_tenant=3)
        if found is not None:
            taken.append(found.delivery.endpoint)
    assert taken.count(slow) == 2
    assert taken.count(other) == 1
    assert taken.count(stranger) == 1


def test_endpoints_take_turns(hooks: Webhooks, deliveries: Deliveries) -> None:
    busy, quiet = endpoint(hooks), endpoint(hooks)
    for number in range(6):
        add(deliveries, f"b{number}", busy)
    add(deliveries, "q", quiet)
    order = [claimed(deliveries).endpoint for _ in range(7)]
    assert quiet in order[:2]
    assert order.count(busy) == 6


def test_gone_and_long_failure_disable_and_say_so_once(
    hooks: Webhooks, deliveries: Deliveries, redis_client: redis.Redis, prefix: str
) -> None:
    gone, broken = endpoint(hooks), endpoint(hooks)
    add(deliveries, "a", gone)
    add(deliveries, "b", gone)
    one, two = claimed(deliveries), claimed(deliveries)
    settle(deliveries, one, "gone")
    settle(deliveries, two, "gone")
    assert not hooks.get(gone, "acme").enabled
    add(deliveries, "c", broken)
    settle(deliveries, claimed(deliveries), "failed", disable_seconds=0)
    assert hooks.get(broken, "acme").disabled_reason == "The endpoint has failed for too long."
    told = [fields for _, fields in redis_client.xrange(f"{prefix}events")]
    assert [(one[b"type"], one[b"subject"].decode()) for one in told] == [
        (b"webhook.disabled", gone), (b"webhook.disabled", broken),
    ]  # fmt: skip
    late = add(deliveries, "d", broken)
    assert claim(deliveries) is None
    assert deliveries.page(broken)[0][0].state == "discarded"
    with pytest.raises(EndpointDisabledError):
        deliveries.redeliver(late, endpoint=broken, tenant="acme")
    hooks.update(broken, "acme", enabled=True)
    deliveries.redeliver(late, endpoint=broken, tenant="acme")
    assert claimed(deliveries).id == late


def test_success_ends_a_row_of_failures(hooks: Webhooks, deliveries: Deliveries) -> None:
    target = endpoint(hooks)
    add(deliveries, "a", target)
    settle(deliveries, claimed(deliveries), "failed")
    assert hooks.get(target, "acme").failing_since is not None
    add(deliveries, "b", target)
    settle(deliveries, claimed(deliveries), "delivered")
    assert hooks.get(target, "acme").failing_since is None


def test_redelivery_is_for_the_owner(hooks: Webhooks, deliveries: Deliveries) -> None:
    target, other = endpoint(hooks), endpoint(hooks)
    message = add(deliveries, "a", target)
    for wrong in (
        {"endpoint": target, "tenant": "globex"},
        {"endpoint": other, "tenant": "acme"},
    ):
        with pytest.raises(UnknownDeliveryError):
            deliveries.redeliver(message, **wrong)


def test_lost_messages_are_made_up_for(
    hooks: Webhooks, deliveries: Deliveries, redis_client: redis.Redis, prefix: str
) -> None:
    target = endpoint(hooks)
    for number in range(3):
        add(deliveries, str(number), target)
    queue = f"{prefix}broker:webhooks"
    assert redis_client.llen(queue) == 3
    redis_client.delete(queue)
    assert deliveries.wake() == 3
    assert deliveries.wake() == 0
    assert redis_client.llen(queue) == 3


def test_the_schedule_covers_a_day() -> None:
    def at(tries: int, once: bool = False) -> int | None:
        return Delivery(
            "msg_1", "we_1", "acme", "x", b"", "pending", tries, tries, 1_000, 0, 0, once
        ).next_try()

    for tries in range(1, len(SCHEDULE)):
        due = at(tries)
        assert due is not None
        assert 0.9 * SCHEDULE[tries] * 1000 <= due - 1_000 <= 1.1 * SCHEDULE[tries] * 1000
    assert SCHEDULE[-1] == 86_400
    assert at(len(SCHEDULE)) is None
    assert at(1, once=True) is None
    assert len(SCHEDULE) < KEPT_ATTEMPTS


def test_signatures_are_those_of_the_specification() -> None:
    first, second = new_secret(), new_secret()
    now = datetime.now(UTC)
    headers = signed_headers([first, second], "msg_1", b'{"a":1}', now)
    for secret in (first, second):
        assert Webhook(secret).verify(b'{"a":1}', headers) == {"a": 1}
    key = base64.b64decode(first.removeprefix("whsec_"))
    signed = f"msg_1.{int(now.timestamp())}.".encode() + b'{"a":1}'
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"].split()[0] == f"v1,{expected}"


def test_endpoints_belong_to_a_tenant(hooks: Webhooks) -> None:
    target = endpoint(hooks)
    for call in (hooks.get, hooks.delete, hooks.rotate):
        with pytest.raises(UnknownEndpointError):
            call(target, "globex")
    hooks.delete(target, "acme")
    with pytest.raises(UnknownEndpointError):
        hooks.get(target, "acme")
    hidden = hooks.ensure_hidden("acme", "https://example.com/")
    assert hooks.ensure_hidden("acme", "https://example.com/") == hidden
    with pytest.raises(UnknownEndpointError):
        hooks.get(hidden, "acme")
    assert hooks.default_secret("acme") == hooks.default_secret("acme") != hooks.default_secret("b")


def test_endpoints_are_few(hooks: Webhooks) -> None:
    for _ in range(MAX_ENDPOINTS):
        endpoint(hooks)
    with pytest.raises(TooManyEndpointsError):
        endpoint(hooks)


def _as_if_due(client: redis.Redis, prefix: str, target: str, message: str) -> None:
    """As if the time had come."""
    client.zadd(f"{prefix}hook:due:{target}", {message: 1})
    client.zadd(f"{prefix}hook:ring", {target: 1})
