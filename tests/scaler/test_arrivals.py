from __future__ import annotations

from typing import Any

from tasks.arrivals import ARRIVALS_TTL_SECONDS, arrivals_key, read_arrivals, record_arrival
from workers.scaler.signals import read_recent

NOON = 1_699_963_200.0  # 2023-11-14 12:00 UTC


def test_the_keys_are_as_documented(scaler_redis: Any) -> None:
    record_arrival(scaler_redis, "high", 120, NOON + 5 * 60 + 59, prefix="x:")
    record_arrival(scaler_redis, "high", 30, NOON + 5 * 60, requests=2, prefix="x:")
    key = "x:arrivals:high:2023111412"
    assert arrivals_key("high", NOON, prefix="x:") == key
    assert scaler_redis.hgetall(key) == {b"05:r": b"3", b"05:t": b"150"}
    assert ARRIVALS_TTL_SECONDS - 5 < scaler_redis.ttl(key) <= ARRIVALS_TTL_SECONDS


def test_a_pipeline_sends_nothing_until_it_executes(scaler_redis: Any) -> None:
    with scaler_redis.pipeline() as pipe:
        record_arrival(pipe, "high", 1, NOON)
        assert scaler_redis.keys() == []
        pipe.execute()
    assert scaler_redis.keys() == [b"arrivals:high:2023111412"]


def test_arrivals_are_read_without_gaps_over_hours(scaler_redis: Any) -> None:
    for minute, requests in ((58, 4), (61, 2)):
        record_arrival(scaler_redis, "low", 10, NOON + 60 * minute, requests=requests)
    record_arrival(scaler_redis, "high", 10, NOON)
    found = read_arrivals(scaler_redis, "low", 7200, now=NOON + 62 * 60 + 30)
    assert found.start == NOON + 58 * 60
    assert found.requests == (4, 0, 0, 2, 0)
    assert found.tokens == (10, 0, 0, 10, 0)
    assert found.minutes == 5
    short = read_arrivals(scaler_redis, "low", 120, now=NOON + 62 * 60 + 30)
    assert short.requests == (2, 0)


def test_now_is_the_default(scaler_redis: Any) -> None:
    record_arrival(scaler_redis, "low", 10)
    assert sum(read_arrivals(scaler_redis, "low", 120).requests) == 1


def test_nothing_counted_yet(scaler_redis: Any) -> None:
    assert read_arrivals(scaler_redis, "low", 3600, now=NOON).requests == (0,)
    recent = read_recent(scaler_redis, "low", NOON, started=None)
    assert (recent.per_minute, recent.history_seconds) == ((), 0.0)


def test_quiet_minutes_of_a_known_queue_are_zeros(scaler_redis: Any) -> None:
    record_arrival(scaler_redis, "low", 10, NOON - 61, requests=3)
    unknown = read_recent(scaler_redis, "low", NOON + 15, started=None)
    assert unknown.per_minute == (3.0, 0.0)
    known = read_recent(scaler_redis, "low", NOON + 15, started=NOON - 86_400)
    assert len(known.per_minute) == 60
    assert known.per_minute[-2:] == (3.0, 0.0)
    assert known.history_seconds == 86_415
    assert known.elapsed == 15.0
    young = read_recent(scaler_redis, "low", NOON + 15, started=NOON - 300)
    assert young.per_minute == (0.0, 0.0, 0.0, 3.0, 0.0)
    tokens = read_recent(scaler_redis, "low", NOON + 15, started=None, unit="tokens")
    assert tokens.per_minute == (10.0, 0.0)
