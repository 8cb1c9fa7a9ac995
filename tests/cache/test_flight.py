from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import redis

from workers.cache.flight import SingleFlight


def test_of_many_at_once_one_flies_and_all_wake(cache_redis_url: str, prefix: str):
    barrier = Barrier(8)

    def request(_: int) -> str:
        with redis.Redis.from_url(cache_redis_url) as client:
            flights = SingleFlight(client, prefix)
            barrier.wait(10)
            flight = flights.take_off("f", lease=10)
            barrier.wait(10)
            if flight is not None:
                flights.land(flight)
                return "flew"
            return "woke" if flights.wait("f", 10) else "gave up"

    with ThreadPoolExecutor(8) as threads:
        ends = list(threads.map(request, range(8)))
    assert sorted(ends) == ["flew"] + ["woke"] * 7


def test_a_flight_whose_lease_ended_releases_who_waits(cache_redis: redis.Redis, prefix: str):
    flights = SingleFlight(cache_redis, prefix)
    flight = flights.take_off("f", lease=0.05)
    assert flight is not None
    assert not flights.wait("f", 5)
    successor = flights.take_off("f", lease=5)
    assert successor is not None
    flights.land(flight)  # too late: the flight is another's by now
    assert flights.take_off("f", lease=5) is None
    flights.land(successor)
    assert flights.wait("f", 5)


def test_waiting_ends_in_time(cache_redis: redis.Redis, prefix: str):
    flights = SingleFlight(cache_redis, prefix)
    assert flights.take_off("f", lease=30) is not None
    assert not flights.wait("f", 0.05)


def test_without_redis_everybody_flies():
    with redis.Redis(port=1, socket_connect_timeout=0.2) as client:
        flights = SingleFlight(client)
        flight = flights.take_off("f", lease=1)
        assert flight is not None
        flights.land(flight)
        assert not flights.wait("f", 1)
