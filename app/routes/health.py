"""Health and probes. None of them needs a token."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import orjson
import redis
from flask import Response, current_app
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from app.documents import Health
from app.services import services

health_api = APIBlueprint(
    "health",
    __name__,
    url_prefix="/v1/health",
    abp_tags=[Tag(name="Health", description="Is it up, and can it take work?")],
)

MEMORY_CEILING = 0.95  # of maxmemory: above it Redis will soon refuse new jobs


def release() -> str:
    """The version of the installed package."""
    try:
        return version("inferenceflow")
    except PackageNotFoundError:
        return "0+source"


@health_api.get("/live", summary="The process runs", responses={"200": Health})
def live() -> Response:
    """Asks nothing of anybody else: a restart of this process mends nothing but this process."""
    return _answer({"api": "ok"}, "ok", 200)


@health_api.get(
    "/ready", summary="The API can accept jobs", responses={"200": Health, "503": Health}
)
def ready() -> Response:
    """Whether Redis answers and has room."""
    checks, usable = _redis_checks()
    return _answer(checks, "ok" if usable else "unavailable", 200 if usable else 503)


@health_api.get("", summary="How everything is", responses={"200": Health, "503": Health})
def health() -> Response:
    """The job store, the cache, and what waits in each queue."""
    checks, usable = _redis_checks()
    status = "ok" if usable else "unavailable"
    current = services()
    try:
        current.cache_redis.ping()
        checks["cache"] = "ok"
    except redis.RedisError as error:
        checks["cache"] = f"down: {type(error).__name__}; jobs run without it"
        status = "degraded" if usable else status
    if usable:
        for lane, load in current.ledger.loads().items():
            checks[f"queue_{lane.value}"] = (
                f"{load.ready} ready, {load.running} running, oldest {load.oldest_seconds:.1f} s"
            )
    return _answer(checks, status, 200 if usable else 503)


def _redis_checks() -> tuple[dict[str, str], bool]:
    try:
        memory: dict[str, Any] = services().job_redis.info("memory")
    except redis.RedisError as error:
        return {"redis": f"down: {type(error).__name__}"}, False
    limit = int(memory.get("maxmemory", 0))
    if limit and int(memory["used_memory"]) > limit * MEMORY_CEILING:
        return {"redis": "full: no room for new jobs"}, False
    return {"redis": "ok"}, True


def _answer(checks: dict[str, str], status: str, code: int) -> Response:
    body = {"status": status, "checks": checks, "version": release()}
    return current_app.response_class(orjson.dumps(body), status=code, mimetype="application/json")
