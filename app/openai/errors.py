"""Errors in OpenAI's shape, which its client libraries turn into exceptions of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson

PATHS = (
    "/v1/chat/",
    "/v1/responses",
    "/v1/models",
    "/v1/files",
    "/v1/batches",
    "/v1/webhook_endpoints",
    "/v1/webhook_event_types",
)

# Our problem types that have a name of their own at OpenAI: status, code, parameter at fault.
_RENAMED: dict[str, tuple[int | None, str, str | None]] = {
    "unknown-model": (404, "model_not_found", "model"),
    "invalid-request": (400, "invalid_value", None),
    "token-expired": (None, "invalid_api_key", None),
    "token-missing": (None, "invalid_api_key", None),
    "token-invalid": (None, "invalid_api_key", None),
    "token-revoked": (None, "invalid_api_key", None),
    "budget-exhausted": (None, "insufficient_quota", None),
    "rate-limited": (None, "rate_limit_exceeded", None),
    "job-ended": (400, "already_ended", None),
    "batch-ended": (400, "already_ended", None),
}


@dataclass(frozen=True)
class JobFailure:
    """How a job that ended without an answer looks over HTTP."""

    status: int
    code: str


# By the type of the job's error (see workers/providers/errors.py and tasks/lua/).
_JOB_FAILURES = {
    "bad_request": JobFailure(400, "bad_request"),
    "context_too_long": JobFailure(400, "context_length_exceeded"),
    "content_filtered": JobFailure(400, "content_filter"),
    "no_capacity": JobFailure(503, "no_capacity"),
    "deadline": JobFailure(504, "deadline_exceeded"),
    "cancelled": JobFailure(409, "cancelled"),
    "all_providers_failed": JobFailure(502, "all_providers_failed"),
}


def speaks_openai(path: str) -> bool:
    """Whether clients of this path expect errors in OpenAI's shape."""
    return path.startswith(PATHS)


def job_failure(kind: str) -> JobFailure:
    """What the error type of a job means to a client."""
    return _JOB_FAILURES.get(kind, JobFailure(500, kind or "server_error"))


def error_body(status: int, message: str, *, code: str | None, param: str | None) -> dict[str, Any]:
    """The error object."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        kind = "requests"
    else:
        kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def translate(
    status: int, problem: str, detail: str, field: str | None, headers: Mapping[str, str]
) -> tuple[bytes, int, dict[str, str]]:
    """A problem of type `problem` as body, status and headers of an answer in OpenAI's shape."""
    at_fault = re.sub(r"\.(\d+)", r"[\1]", field) if field else None
    new_status, code, param = _RENAMED.get(problem, (None, problem.replace("-", "_"), None))
    status = new_status or status
    told = dict(headers)
    if status == HTTPStatus.CONFLICT:
        told["X-Should-Retry"] = "false"  # OpenAI's libraries would try again
    body = error_body(status, detail, code=code, param=param or at_fault)
    return orjson.dumps(body), status, told
