"""What Redis holds, as metrics: queues, job totals, breakers, cache, memory, webhooks.

It is read at each scrape and is the same whichever process is asked, so a query over several API
servers takes `max`, not `sum`. A part that cannot be read is left out and shows itself in
`inferenceflow_state_readable`: a scrape never fails.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import redis
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tasks.breakers import read_breakers, target_key
from tasks.cache_stats import read_usage
from tasks.inference import Priority
from tasks.jobs import JobState
from tasks.ledger import Ledger
from tasks.scaler_metrics import ScalerCollector

logger = logging.getLogger(__name__)

MOST_ENDPOINTS = 1_000  # with something to send, looked at in one scrape
BUSY_MS = 250  # as in tasks/lua/hook_claim.lua
BREAKER_STATES = {"closed": 0, "half_open": 1, "open": 2}
# What the ledger counts (`totals` in tasks/lua/prelude.lua), beside the ends of jobs.
TOTALS = {
    "submitted": "Jobs accepted.",
    "retried": "Runs that failed and are tried again.",
    "deferred": "Runs put off without a failure.",
    "recovered": "Jobs taken from a worker that died or froze.",
}


def breakers_in_use(
    client: redis.Redis, targets: Sequence[tuple[str, str]], prefix: str
) -> list[Any]:
    """The breakers of those targets (provider, its model) that were called in the last hour."""
    with client.pipeline(transaction=False) as pipe:
        for provider, model in targets:
            pipe.exists(target_key(provider, model, prefix))
        used = pipe.execute()
    known = [target for target, found in zip(targets, used, strict=True) if found]
    return read_breakers(client, known, prefix) if known else []


class StateCollector(Collector):
    """Serves the state to Prometheus. Register it once per registry."""

    def __init__(
        self,
        client: redis.Redis,
        cache_client: redis.Redis,
        prefix: str,
        targets: Sequence[tuple[str, str]],
    ) -> None:
        """`targets`: (provider, its model) of the whole catalogue."""
        self._redis, self._cache_redis = client, cache_client
        self._prefix, self._targets = prefix, targets
        self._ledger = Ledger(client, prefix)
        self._scaler = ScalerCollector(client, prefix=prefix)

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that registering does not ask Redis."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The metrics as of now."""
        readable = GaugeMetricFamily(
            "inferenceflow_state_readable",
            "Whether this part of the state could be read at this scrape.",
            labels=["part"],
        )
        parts: dict[str, Callable[[], list[Metric]]] = {
            "queues": self._queues,
            "totals": self._totals,
            "breakers": self._breakers,
            "memory": lambda: _memory({"jobs": self._redis, "cache": self._cache_redis}),
            "cache": self._cache,
            "webhooks": self._webhooks,
            "scaler": lambda: list(self._scaler.collect()),
        }
        for name, read in parts.items():
            found: list[Metric] = []
            try:
                found = read()
            except redis.RedisError as error:
                logger.warning(
                    "state not readable",
                    extra={
                        "action": "metrics_unreadable",
                        "part": name,
                        "error": type(error).__name__,
                    },
                )
            readable.add_metric([name], float(bool(found)))
            yield from found
        yield readable

    def _queues(self) -> list[Metric]:
        ready = _gauge("queue_depth", "Jobs that a worker could take now.", "priority")
        oldest = _gauge(
            "queue_oldest_seconds", "Age of the job that has waited longest.", "priority"
        )
        running = _gauge("jobs_running", "Jobs that workers hold.", "priority")
        for lane, load in self._ledger.loads().items():
            ready.add_metric([lane.value], load.ready)
            oldest.add_metric([lane.value], load.oldest_seconds)
            running.add_metric([lane.value], load.running)
        return [ready, oldest, running]

    def _totals(self) -> list[Metric]:
        found = cast("dict[bytes, bytes]", self._redis.hgetall(self._ledger.key("totals")))
        counters = {
            name: CounterMetricFamily(f"inferenceflow_jobs_{name}", text, labels=["priority"])
            for name, text in TOTALS.items()
        }
        ended = CounterMetricFamily(
            "inferenceflow_jobs_ended", "Jobs that ended.", labels=["priority", "state"]
        )
        # Zeros too: a rate sees a counter's first step only if it was there before.
        for lane in Priority:
            for name, family in counters.items():
                family.add_metric([lane], float(found.get(f"{name}:{lane}".encode(), 0)))
            for state in filter(lambda one: one.terminal, JobState):
                amount = float(found.get(f"ended:{lane}:{state}".encode(), 0))
                ended.add_metric([lane, state], amount)
        dead = _gauge("jobs_dead", "Jobs of the last 30 days given up after their last attempt.")
        dead.add_metric([], float(self._redis.zcard(self._ledger.key("dead"))))
        return [*counters.values(), ended, dead]

    def _breakers(self) -> list[Metric]:
        state = _gauge(
            "breaker_state", "Circuit breaker: 0 closed, 1 half open, 2 open.", "provider", "model"
        )
        for one in breakers_in_use(self._redis, self._targets, f"{self._prefix}router:"):
            state.add_metric([one.provider, one.model], BREAKER_STATES[one.state])
        return [state]

    def _cache(self) -> list[Metric]:
        usage = read_usage(self._cache_redis, f"{self._prefix}cache")
        entries = _gauge("cache_entries", "Answers stored.")
        entries.add_metric([], usage.entries)
        size = _gauge("cache_size_bytes", "What they take.")
        size.add_metric([], usage.bytes)
        evicted = CounterMetricFamily("inferenceflow_cache_evictions", "Answers evicted for room.")
        evicted.add_metric([], usage.evicted)
        return [entries, size, evicted]

    def _webhooks(self) -> list[Metric]:
        now = self._redis.time()
        now_ms = now[0] * 1000 + now[1] // 1000
        # One that has as many deliveries under way as it may is put off a little each time that it
        # is looked at: its place in the ring says nothing of how long its messages wait.
        endpoints = cast(
            "list[bytes]",
            self._redis.zrangebyscore(
                self._ledger.key("hook:ring"), "-inf", now_ms + BUSY_MS, 0, MOST_ENDPOINTS
            ),
        )
        with self._redis.pipeline(transaction=False) as pipe:
            for name in endpoints:
                waiting = self._ledger.key("hook:due", name.decode())
                pipe.zcount(waiting, "-inf", now_ms)
                pipe.zrange(waiting, 0, 0, withscores=True)
            found = pipe.execute()
        due = sum(cast("list[int]", found[::2]))
        since = [first[0][1] for first in found[1::2] if first and first[0][1] <= now_ms]
        backlog = _gauge("webhook_backlog", "Deliveries that are due and not sent.")
        backlog.add_metric([], due)
        oldest = _gauge("webhook_oldest_seconds", "How long the first of them has been due.")
        oldest.add_metric([], (now_ms - min(since)) / 1000 if since else 0.0)
        return [backlog, oldest]


def _memory(stores: dict[str, redis.Redis]) -> list[Metric]:
    """Of the stores that answer. Raises redis.RedisError when none does."""
    used = _gauge("redis_memory_used_bytes", "Memory that Redis uses.", "store")
    limit = _gauge("redis_memory_limit_bytes", "Its maxmemory; 0: none.", "store")
    for store, client in stores.items():
        try:
            memory = client.info("memory")
        except redis.RedisError:
            # The cache may be away; how full the ledger is must be seen all the same.
            if store == list(stores)[-1] and not used.samples:
                raise
            continue
        used.add_metric([store], float(memory["used_memory"]))
        limit.add_metric([store], float(memory.get("maxmemory", 0)))
    return [used, limit]


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"inferenceflow_{name}", text, labels=labels)
