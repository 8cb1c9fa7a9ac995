"""The lines of a batch as clients write them, made into requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from tasks.inference import InferenceSubmission, Message, Metadata, ResponseFormat

CustomID = Annotated[str, StringConstraints(min_length=1, max_length=512)]
# These belong to the whole batch.
NOT_IN_A_LINE = ("stream", "priority", "deadline_seconds", "webhook_url")
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


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Line(_Strict):
    custom_id: CustomID
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


class _Common(_Strict):
    model: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    temperature: float | None = None
    top_p: float | None = None
    metadata: Metadata | None = None
    user: str | None = None  # who asked is known from the token
    n: Literal[1, None] = None
    stream: Literal[False, None] = None
    store: bool | None = None


class _Chat(_Common):
    messages: list[Message]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    response_format: ResponseFormat | None = None


class _InputText(_Strict):
    type: Literal["input_text"]
    text: str


class _InputMessage(_Strict):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_InputText]


class _Response(_Common):
    input: str | list[_InputMessage]
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None)


def openai_line(endpoint: str) -> ReadLine:
    """The reader of OpenAI's batch lines for `endpoint`."""

    def read(data: bytes) -> tuple[str, InferenceSubmission]:
        line = _Line.model_validate_json(data)
        if line.url != endpoint:
            raise LineError("url", f"must be the batch's endpoint, {endpoint}")
        body = _chat(line.body) if endpoint == "/v1/chat/completions" else _response(line.body)
        return line.custom_id, InferenceSubmission.model_validate(body)

    return read


def _chat(given: dict[str, Any]) -> dict[str, Any]:
    body = _Chat.model_validate(given)
    stop = [body.stop] if isinstance(body.stop, str) else body.stop
    return _without_none(
        messages=body.messages,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stop=stop,
        seed=body.seed,
        frequency_penalty=body.frequency_penalty,
        presence_penalty=body.presence_penalty,
        response_format=body.response_format,
        **_common(body),
    )


def _response(given: dict[str, Any]) -> dict[str, Any]:
    body = _Response.model_validate(given)
    turns = (
        [_InputMessage(role="user", content=body.input)]
        if isinstance(body.input, str)
        else (body.input)
    )
    messages = [
        {
            "role": turn.role,
            "content": turn.content
            if isinstance(turn.content, str)
            else [{"type": "text", "text": part.text} for part in turn.content],
        }
        for turn in turns
    ]
    return _without_none(
        messages=messages,
        system=body.instructions,
        max_tokens=body.max_output_tokens,
        **_common(body),
    )


def _common(body: _Common) -> dict[str, Any]:
    return {
        "model_preference": body.model,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "metadata": body.metadata,
    }


def _without_none(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


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
