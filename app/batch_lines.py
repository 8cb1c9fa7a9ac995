"""The lines of a batch as clients write them, made into requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from app.openai.chat import ChatCompletionRequest
from app.openai.responses import ResponseRequest
from app.problems import Problem
from tasks.inference import InferenceSubmission

CustomID = Annotated[str, StringConstraints(min_length=1, max_length=512)]
# These belong to the whole batch.
NOT_IN_A_LINE = ("stream", "priority", "deadline_seconds", "webhook_url")
NOT_IN_A_BODY = ("stream", "background", "previous_response_id", "service_tier")
ENDPOINTS = ("/v1/chat/completions", "/v1/responses")


class LineError(ValueError):
    """A line that cannot be accepted."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class NativeLine(InferenceSubmission):
    """A line of the native form: a submission, and a name for it."""

    custom_id: CustomID | None = None


ReadLine = Callable[[bytes], tuple[str, InferenceSubmission]]


def native_line(data: bytes) -> tuple[str, InferenceSubmission]:
    """custom_id and request of a native line. Raises LineError, ValidationError."""
    line = NativeLine.model_validate_json(data)
    for name in NOT_IN_A_LINE:
        if name in line.model_fields_set:
            raise LineError(name, "belongs to the whole batch, not to a line")
    return line.custom_id or "", line


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    custom_id: CustomID
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


def openai_line(endpoint: str) -> ReadLine:
    """The reader of OpenAI's batch lines for `endpoint`."""

    def read(data: bytes) -> tuple[str, InferenceSubmission]:
        line = _Line.model_validate_json(data)
        if line.url != endpoint:
            raise LineError("url", f"must be the endpoint of the batch, {endpoint}")
        for name in NOT_IN_A_BODY:
            if line.body.get(name):
                raise LineError(f"body.{name}", "is not possible in a batch")
        try:
            return line.custom_id, _submission(endpoint, line.body)
        except Problem as problem:
            field = problem.errors[0].field if problem.errors else ""
            raise LineError(f"body.{field}".rstrip("."), problem.detail) from None

    return read


def _submission(endpoint: str, body: dict[str, Any]) -> InferenceSubmission:
    if endpoint == "/v1/chat/completions":
        return ChatCompletionRequest.model_validate(body).submission()
    request = ResponseRequest.model_validate(body)
    request.check()
    return request.submission([])


def faults_of(error: ValidationError | LineError) -> list[tuple[str, str]]:
    """Field and message of each fault, without the input: it may be a prompt."""
    if isinstance(error, LineError):
        return [(error.field, str(error))]
    return [
        (
            ".".join(str(part) for part in fault["loc"]),
            fault["msg"].removeprefix("Value error, "),
        )
        for fault in error.errors(include_input=False, include_url=False, include_context=False)[:3]
    ]
