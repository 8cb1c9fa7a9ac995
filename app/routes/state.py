"""How the system does, as JSON: what the console shows and Prometheus scrapes, read from Redis."""

from __future__ import annotations

from collections import defaultdict
from http import HTTPStatus
from typing import Any, cast

import orjson
from flask import Response, current_app
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, Field

from app.administration import require_platform
from app.documents import problems
from app.identity import caller
from app.observing import HttpMetrics
from app.services import services
from tasks.cache_stats import pool_report, whole_report
from tasks.fingerprint import tenant_pool
from tasks.recent import Recent
from tasks.state_metrics import breakers_in_use

state_api = APIBlueprint(
    "state",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="State", description="Queues, providers, cache, latencies.")],
    abp_security=[{"token": []}],
)

_ANSWERS: dict[str | int | HTTPStatus, Any] = {
    "200": {"content": {"application/json": {}}},
    **problems(401, 429, 503),
}


@state_api.get("/stats", summary="Latencies and throughput", responses=_ANSWERS)
def stats() -> Response:
    """P50, P95 and P99 of the last 5 minutes, hour and day, over all workers and tenants."""
    return _json(services().metrics.get_performance_summary())


@state_api.get("/queues", summary="What waits and runs", responses=_ANSWERS)
def queues() -> Response:
    """For each priority: jobs that wait, that run, and the age of the oldest."""
    loads = services().ledger.loads()
    return _json(
        {
            lane.value: {
                "ready": load.ready,
                "running": load.running,
                "oldest_seconds": round(load.oldest_seconds, 3),
            }
            for lane, load in loads.items()
        }
    )


@state_api.get("/providers", summary="Providers and their circuits", responses=_ANSWERS)
def providers() -> Response:
    """Every provider of the catalogue; circuits of the models called in the last hour, and the
    calls that failed in it.
    """
    current = services()
    metrics = cast(HttpMetrics, current_app.extensions["inferenceflow.metrics"])
    prefix = f"{current.settings.key_prefix}router:"
    circuits = defaultdict(list)
    for one in breakers_in_use(current.job_redis, metrics.targets, prefix):
        circuits[one.provider].append(
            {
                "model": one.model,
                "state": one.state,
                "retry_in_seconds": round(one.retry_in_seconds, 1),
                "failures": one.failures,
            }
        )
    hour = Recent(current.job_redis, current.settings.key_prefix).window("1h")
    data = []
    for name in sorted(current.catalogue.providers):
        errors = {
            kind.removeprefix(f"error:{name}:"): count
            for kind, count in hour.counts.items()
            if kind.startswith(f"error:{name}:")
        }
        data.append(
            {
                "name": name,
                "circuits": circuits[name],
                "latency_seconds": hour.percentiles(f"latency:{name}"),
                "errors": errors,
            }
        )
    return _json({"data": data})


class CacheStatsQuery(BaseModel):
    """Whose cache."""

    everyone: bool = Field(default=False, description="Of all tenants; with scope `platform`.")


@state_api.get(
    "/cache/stats",
    summary="What the cache did",
    responses={**_ANSWERS, **problems(403, 422)},
)
def cache_stats(query: CacheStatsQuery) -> Response:
    """Of the tenant: lookups, hits by layer, refused likenesses, money and time saved, the estimate
    of wrong semantic hits, the most used entries: with their prompts for an admin of a tenant that
    shares its pool with no other. Of everyone: memory as well, and the pools that most hits were
    checked of; no prompts.
    """
    current = services()
    client, prefix = current.cache_redis, f"{current.settings.key_prefix}cache"
    if query.everyone:
        require_platform()
        return _json(whole_report(client, prefix))
    rules = current.repeats.rules
    who = caller()
    pool, own = rules.pool(who.tenant), tenant_pool(who.tenant)
    report = pool_report(
        client, prefix, pool, rules.base.verifier_bar, prompts=who.admin and pool == own
    )
    return _json(report)


def _json(content: object) -> Response:
    return current_app.response_class(orjson.dumps(content), mimetype="application/json")
