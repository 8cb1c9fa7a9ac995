"""The refusals that operations have in common, for the OpenAPI document.

What only one operation can answer stands with its route; what follows from the way every request
goes (token, scope, limits, body, storage) is added here, so that no route can forget it.
"""

from __future__ import annotations

from typing import Any

from app.openai.errors import speaks_openai

# A path and everything below it.
WITHOUT_TOKEN = ("/v1/health", "/v1/metrics", "/v1/auth/")
# Where a budget can refuse. Lines of a batch wait for a budget instead.
SPENDING = ("/v1/inference", "/v1/chat/completions", "/v1/responses")
# An Idempotency-Key that stands for another body is the one 422 that OpenAI's paths have.
KEYED = ("/v1/chat/completions", "/v1/responses", "/v1/batches")

MEANINGS = {
    400: "The request cannot be read",
    401: "No valid token",
    402: "A budget does not allow it",
    403: "The token lacks the scope that this needs",
    413: "The body is too large",
    415: "Another media type is needed",
    422: "A value is not allowed",
    429: "Too many requests, or too much at once: see Retry-After",
    503: "Not now: see Retry-After",
}


def add_common_answers(paths: dict[str, dict[str, Any]]) -> None:
    """Complete the `responses` of every operation."""
    for path, operations in paths.items():
        for method, operation in operations.items():
            answers = operation["responses"]
            for status in _common(path, method, operation):
                answers.setdefault(str(status), _refusal(path, status))
            # The library adds one to every operation, and with another media type.
            answers.pop("422", None)
            if _can_be_unprocessable(path, method, operation):
                answers["422"] = _refusal(path, 422)


def _common(path: str, method: str, operation: dict[str, Any]) -> set[int]:
    found = set()
    if not path.startswith(WITHOUT_TOKEN):
        found |= {401, 403, 429, 503}
    if "requestBody" in operation:
        found |= {400, 413, 415}
    if operation.get("parameters") and speaks_openai(path):
        found.add(400)
    if method == "post" and path in SPENDING:
        found.add(402)
    return found


def _can_be_unprocessable(path: str, method: str, operation: dict[str, Any]) -> bool:
    if speaks_openai(path):
        return method == "post" and path in KEYED
    return "requestBody" in operation or bool(operation.get("parameters"))


def _refusal(path: str, status: int) -> dict[str, Any]:
    name, media = "Problem", "application/problem+json"
    if speaks_openai(path):
        name, media = "OpenAIError", "application/json"
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"description": MEANINGS[status], "content": {media: {"schema": schema}}}
