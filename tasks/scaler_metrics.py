"""The scaler's state as numbers, for Prometheus and for a summary.

They are read from Redis at every scrape, so that any process can serve them, and the totals
survive a restart of the scaler.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tasks.scaler_state import read_scaler

LEVELS = ("hold", "reactive", "nowcast", "seasonal")  # the gauge's 0 to 3

_GAUGES = {
    "desired_replicas": ("Replicas that the scaler wants.", ("after",)),
    "current_replicas": ("Replicas that were asked for before.", ("before",)),
    "ready_replicas": ("Replicas that take jobs.", ("replicas", "ready")),
    "stuck_replicas": ("Pods that have been starting for too long.", ("replicas", "stuck")),
    "forecast_p50": ("Forecast work, units per second.", ("forecast", "p50")),
    "forecast_upper": ("Upper quantile of it, units per second.", ("forecast", "upper")),
    "arrival_rate": ("Work that arrives now, units per second.", ("forecast", "actual")),
    "nowcast_loss": ("Rolling mean absolute error of the nowcast.", ("skill", "nowcast_loss")),
    "seasonal_loss": ("The same of the seasonal forecast.", ("skill", "seasonal_loss")),
    "coverage": ("Share of bins below their upper quantile.", ("skill", "coverage")),
    "beta": ("Safety staffing in standard deviations of the load.", ("beta",)),
}


def get_scaling_metrics(client: Any, *, prefix: str = "") -> dict[str, dict[str, Any]]:
    """Per queue the numbers of the last decision, and the totals since the beginning.

    A gauge without a value (nothing read, nothing forecast) is left out. `level` is 0 to 3 as in
    `LEVELS`; `actions` counts by (direction, reason); `replica_hours`; `cost` in US dollars.
    """
    state = read_scaler(client, prefix=prefix)
    found: dict[str, dict[str, Any]] = {}
    for queue, record in state["queues"].items():
        numbers: dict[str, Any] = {"level": LEVELS.index(record["level"]), "actions": {}}
        for name, (_, path) in _GAUGES.items():
            value: Any = record
            for step in path:
                value = None if value is None else value[step]
            if value is not None:
                numbers[name] = float(value)
        found[queue] = numbers
    for field, amount in state["totals"].items():
        kind, queue, *labels = field.split(":")
        numbers = found.setdefault(queue, {"actions": {}})
        if kind == "actions":
            numbers["actions"][labels[0], labels[1]] = int(amount)
        elif kind == "replica_seconds":
            numbers["replica_hours"] = amount / 3600.0
        else:
            numbers["cost"] = amount
    return found


class ScalerCollector(Collector):
    """Serves the numbers to Prometheus. Register it once per registry."""

    def __init__(self, client: Any, *, prefix: str = "") -> None:
        self._client = client
        self._prefix = prefix

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that registering does not ask Redis."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The metrics as of now. Raises redis.RedisError if they cannot be read."""
        numbers = get_scaling_metrics(self._client, prefix=self._prefix)
        level = GaugeMetricFamily(
            "inferenceflow_scaler_level",
            "Trusted signals: 0 hold, 1 reactive, 2 nowcast, 3 seasonal.",
            labels=["queue"],
        )
        actions = CounterMetricFamily(
            "inferenceflow_scaler_actions",
            "Changes of the number of replicas.",
            labels=["queue", "direction", "reason"],
        )
        seconds = CounterMetricFamily(
            "inferenceflow_scaler_replica_seconds", "Of replicas paid for.", labels=["queue"]
        )
        cost = CounterMetricFamily(
            "inferenceflow_scaler_cost_dollars", "What they cost.", labels=["queue"]
        )
        gauges = {
            name: GaugeMetricFamily(f"inferenceflow_scaler_{name}", text, labels=["queue"])
            for name, (text, _) in _GAUGES.items()
        }
        for queue, values in numbers.items():
            if "level" in values:
                level.add_metric([queue], values["level"])
            for (direction, reason), count in values["actions"].items():
                actions.add_metric([queue, direction, reason], count)
            seconds.add_metric([queue], values.get("replica_hours", 0.0) * 3600.0)
            cost.add_metric([queue], values.get("cost", 0.0))
            for name, gauge in gauges.items():
                if name in values:
                    gauge.add_metric([queue], values[name])
        yield from (level, actions, seconds, cost, *gauges.values())
