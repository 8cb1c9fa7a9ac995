"""The bodies of webhooks: ours, and those that OpenAI's client library reads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson

from tasks.jobs import Job, JobState

MAX_PAYLOAD_BYTES = 20_000
_RESPONSE_EVENTS = {
    JobState.SUCCEEDED: "response.completed",
    JobState.FAILED: "response.failed",
    JobState.EXPIRED: "response.failed",
    JobState.CANCELLED: "response.cancelled",
}


def job_event(job: Job) -> str:
    """Our name of a job's end."""
    return f"job.{job.state.value}"


def response_event(job: Job) -> str | None:
    """OpenAI's name of a job's end; None for a job that is no background response."""
    surface = orjson.loads(job.surface) if job.surface else {}
    if surface.get("kind") != "response" or not surface.get("background"):
        return None
    if job.result is not None:
        reason = orjson.loads(job.result)["finish_reason"]
        if reason in ("length", "content_filter"):
            return "response.incomplete"
    return _RESPONSE_EVENTS.get(job.state)


def native_payload(event: str, at_ms: int, data: dict[str, Any]) -> bytes:
    """`type`, `timestamp`, `data`. A result that is too large is left out: it can be fetched."""
    body = {"type": event, "timestamp": _time(at_ms), "data": data}
    payload = orjson.dumps(body)
    if len(payload) > MAX_PAYLOAD_BYTES:
        payload = orjson.dumps({**body, "data": {**data, "result": None, "truncated": True}})
    return payload


def job_data(job: Job) -> dict[str, Any]:
    """What a webhook says of a job."""
    view = job.view()
    return {
        name: view[name]
        for name in ("id", "object", "state", "created_at", "finished_at", "request_id",
                     "result", "error")
    } | {"url": f"/v1/jobs/{job.id}", "truncated": False}  # fmt: skip


def openai_payload(event_id: str, event: str, at_ms: int, subject: str) -> bytes:
    """An event as OpenAI sends it: it names its object, which is then to be fetched."""
    return orjson.dumps(
        {
            "id": event_id,
            "object": "event",
            "created_at": at_ms // 1000,
            "type": event,
            "data": {"id": subject},
        }
    )


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
