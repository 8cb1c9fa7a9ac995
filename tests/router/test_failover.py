"""Workers that share a Redis learn from each other's failures; the acceptance run passes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from benchmarks import failover
from tests.fakes.provider import FakeProvider
from workers.router import BreakerPolicy


@pytest.fixture
def trio() -> Iterator[dict[str, FakeProvider]]:
    with FakeProvider() as failing, FakeProvider() as hanging, FakeProvider() as healthy:
        failing.behave(mode="status", status=500)
        hanging.behave(mode="hang")
        yield {"failing": failing, "hanging": hanging, "healthy": healthy}


def test_what_one_worker_learned_spares_the_others(
    trio: dict[str, FakeProvider],
    router_redis_url: str,
    router_redis: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(failover, "FIRST_BYTE_SECONDS", 0.2)
    router_redis.delete(*(f"inferenceflow:router:target:{name}/m" for name in trio))
    urls = {name: fake.url for name, fake in trio.items()}
    policy = BreakerPolicy(open_ms=60_000)
    first = failover.router(urls, router_redis_url, policy)
    assert all(failover.one(first, "all", i).ok for i in range(4))
    before = {name: fake.count for name, fake in trio.items()}
    second = failover.router(urls, router_redis_url, policy)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: failover.one(second, "all", i), range(40)))
    assert all(result.ok for result in results)
    assert (trio["failing"].count, trio["hanging"].count) == (before["failing"], before["hanging"])
    assert second.check_circuit_breaker("hanging", "m").state == "open"


def test_of_many_calls_at_a_half_open_circuit_one_probes(
    trio: dict[str, FakeProvider], router_redis_url: str, router_redis: redis.Redis
) -> None:
    router_redis.delete("inferenceflow:router:target:failing/m")
    urls = {name: trio[name].url for name in ("failing", "healthy")}
    routing = failover.router(urls, router_redis_url, BreakerPolicy(failures=1, open_ms=1))
    failover.one(routing, "all", 0)
    while routing.check_circuit_breaker("failing", "m").state == "open":
        threading.Event().wait(0.005)
    trio["failing"].behave(latency=0.5)  # well again, but slow: the probe is under way for a while
    before = trio["failing"].count
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda i: failover.one(routing, "all", i), range(16)))
    assert all(result.ok for result in results)
    assert trio["failing"].count == before + 1
    assert routing.check_circuit_breaker("failing", "m").state == "closed"


@pytest.mark.slow
def test_the_acceptance_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["failover", "--calls", "500"])
    assert failover.main() == 0
