"""Identical requests in flight become one call, and the death of the first does not stop them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from tasks.redis_client import connect
from tests.redis_server import free_port
from workers.single_flight import Follow, Lead, SingleFlight


@pytest.fixture
def flights(router_redis: redis.Redis, router_prefix: str) -> SingleFlight:
    return SingleFlight(router_redis, prefix=router_prefix)


def lead(flights: SingleFlight, owner: str, lease: float = 60) -> Lead:
    got = flights.try_lead("k", owner, lease)
    assert isinstance(got, Lead)
    return got


def end_lease(client: redis.Redis, prefix: str) -> None:
    """As if the lead's worker had died long ago."""
    client.hset(f"{prefix}k", "until", 1)


def test_of_many_at_once_one_leads_and_all_others_are_woken(flights: SingleFlight) -> None:
    start = threading.Barrier(30)

    def ask(i: int) -> Lead | Follow:
        start.wait()
        return flights.try_lead("k", f"job-{i}", 60)

    with ThreadPoolExecutor(30) as pool:
        got = list(pool.map(ask, range(30)))
    leads = [g for g in got if isinstance(g, Lead)]
    assert len(leads) == 1
    assert all(0 < g.retry_seconds <= 60 for g in got if isinstance(g, Follow))
    woken = flights.release(leads[0], result_ready=True)
    assert sorted([*woken, leads[0].owner]) == sorted(f"job-{i}" for i in range(30))
    assert isinstance(flights.try_lead("k", "later", 60), Lead)


def test_a_lead_that_failed_hands_over_to_the_first_follower(flights: SingleFlight) -> None:
    first = lead(flights, "a")
    for owner in ("b", "c", "d"):
        assert isinstance(flights.try_lead("k", owner, 60), Follow)
    assert flights.release(first, result_ready=False) == ["b"]
    second = lead(flights, "b")
    assert second.fence > first.fence
    assert sorted(flights.release(second, result_ready=True)) == ["c", "d"]


def test_a_dead_lead_is_superseded_and_can_do_nothing_when_it_wakes(
    flights: SingleFlight, router_redis: redis.Redis, router_prefix: str
) -> None:
    dead = lead(flights, "a")
    assert isinstance(flights.try_lead("k", "b", 60), Follow)
    assert isinstance(flights.try_lead("k", "c", 60), Follow)
    end_lease(router_redis, router_prefix)
    taken = lead(flights, "b")
    assert taken.fence > dead.fence
    assert not flights.renew(dead, 60)
    assert flights.release(dead, result_ready=True) == []
    assert flights.renew(taken, 60)
    assert flights.release(taken, result_ready=True) == ["c"]


def test_two_runs_of_one_job_do_not_both_lead(flights: SingleFlight) -> None:
    old, new = lead(flights, "a"), lead(flights, "a")
    assert not flights.renew(old, 60)
    assert flights.renew(new, 60)


def test_renewing_moves_the_end_of_the_lease(flights: SingleFlight) -> None:
    held = lead(flights, "a", 1)
    assert flights.renew(held, 100)
    follow = flights.try_lead("k", "b", 60)
    assert isinstance(follow, Follow)
    assert follow.retry_seconds > 90


def test_one_that_left_is_not_woken(flights: SingleFlight) -> None:
    held = lead(flights, "a")
    flights.try_lead("k", "b", 60)
    flights.leave("k", "b")
    assert flights.release(held, result_ready=True) == []


def test_every_key_expires(
    flights: SingleFlight, router_redis: redis.Redis, router_prefix: str
) -> None:
    lead(flights, "a")
    flights.try_lead("k", "b", 60)
    keys = list(router_redis.scan_iter(f"{router_prefix}*"))
    assert len(keys) == 2
    assert all(router_redis.pttl(key) > 0 for key in keys)


def test_without_redis_everybody_leads_and_it_is_counted() -> None:
    counted: list[None] = []
    flights = SingleFlight(
        connect(f"redis://127.0.0.1:{free_port()}"),
        on_fallback=lambda: counted.append(None),
    )
    first, second = lead(flights, "a"), lead(flights, "b")
    assert not first.shared
    assert flights.renew(second, 60)
    assert flights.release(first, result_ready=True) == []
    flights.leave("k", "c")
    assert len(counted) == 3
