"""What judging has found, as metrics of a worker.

They name tenants, so they are not among those of the API, which anybody may read unless
METRICS_TOKEN is set. Read at each scrape and the same whichever worker is asked: a query over
several takes `max`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import redis
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tasks.cache_judgements import judged_pools, read_judgements

logger = logging.getLogger(__name__)


class JudgementCollector(Collector):
    """Serves the error rate and the raised bar of the pools that most hits were judged of."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client, self._prefix = client, prefix

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that registering does not ask Redis."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The metrics as of now; none while the cache's Redis is away."""
        rate = GaugeMetricFamily(
            "inferenceflow_cache_error_rate",
            "Wrong answers per semantic hit, as far as judged.",
            labels=["pool"],
        )
        bar = GaugeMetricFamily(
            "inferenceflow_cache_verifier_bar",
            "Least score of a semantic hit; 0: not raised.",
            labels=["pool"],
        )
        try:
            pools = judged_pools(self._client, self._prefix)
            judged = read_judgements(self._client, self._prefix, *pools)
        except redis.RedisError as error:
            logger.warning(
                "judgements not readable",
                extra={"action": "metrics_unreadable", "error": type(error).__name__},
            )
            return
        for one in judged:
            bar.add_metric([one.pool], one.bar)
            if one.estimate is not None:
                rate.add_metric([one.pool], one.estimate.rate)
        yield rate
        yield bar
