"""Judging cache hits off the request path: one thread, and what it cannot take is let go."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import redis

from tasks.cache_hit import CacheHit
from tasks.exact_cache import Answer
from tasks.inference import InferenceRequest
from tasks.metrics import Metrics
from workers.cache.hit import Lookup
from workers.cache.shadow import ShadowJudge
from workers.providers.base import CallLimits
from workers.providers.errors import ProviderError
from workers.router.router import Router

logger = logging.getLogger(__name__)

CALL_SECONDS = 60.0
MOST_WAITING = 8


class Shadow:
    """Asks the provider what the cache has answered already, for a sample of semantic hits."""

    def __init__(self, judge: ShadowJudge, router: Router, metrics: Metrics) -> None:
        self._judge, self._router, self._metrics = judge, router, metrics
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._room = threading.BoundedSemaphore(MOST_WAITING)

    def consider(
        self, hit: CacheHit, lookup: Lookup, request: InferenceRequest, tenant: str
    ) -> None:
        """Judge this hit later, if it is in the sample. Never delays or fails the job.

        What the provider charges for it counts as the tenant's in the metrics, but neither in its
        usage nor against its budget.
        """
        if hit.layer != "semantic" or not self._room.acquire(blocking=False):
            return
        self._pool.submit(self._consider, hit, lookup, request, tenant)

    def _consider(
        self, hit: CacheHit, lookup: Lookup, request: InferenceRequest, tenant: str
    ) -> None:
        try:
            if self._judge.wants(hit, lookup.scope.pool):
                self._judge.judge(hit, lookup, lambda: self._ask(request, tenant))
        except (redis.RedisError, ProviderError) as error:
            logger.info(
                "hit not judged",
                extra={"action": "shadow_failed", "error": type(error).__name__},
            )
        finally:
            self._room.release()

    def _ask(self, request: InferenceRequest, tenant: str) -> Answer:
        started = time.monotonic()
        completion, _ = self._router.call(
            self._router.route_request(request),
            limits=CallLimits(deadline=started + CALL_SECONDS),
        )
        self._metrics.record_completion(
            tenant,
            completion.provider,
            completion.model,
            completion.usage,
            completion.cost,
            completion.first_token_seconds,
        )
        return Answer(
            text=completion.text,
            provider=completion.provider,
            model=completion.model,
            finish_reason=completion.finish_reason,
            usage=completion.usage,
            cost=completion.cost,
            latency=time.monotonic() - started,
        )
