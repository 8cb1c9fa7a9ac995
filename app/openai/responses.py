"""The Responses API: its request to our submission, a job to its response object."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from app.openai.errors import job_failure
from app.openai.fields import PRIORITIES, TIERS, ServiceTier, make_submission, refuse
from app.problems import FieldFault, Problem
from tasks.inference import (
    CacheOptions,
    ImagePart,
    ImageURL,
    InferenceRequest,
    InferenceResponse,
    InferenceSubmission,
    Message,
    Metadata,
    ResponseFormat,
    TextPart,
    Usage,
)
from tasks.jobs import Job, JobState

RESPONSE_ID = re.compile(r"resp_[0-9a-f]{32}")


class _Open(BaseModel):
    """Fields that are not declared are looked at one by one, and refused by name."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, frozen=True)


class InputText(_Open):
    """Text, of the user or of an earlier answer."""

    type: Literal["input_text", "output_text"]
    text: str


class InputImage(_Open):
    """An image by URL."""

    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto", "low", "high"] = "auto"


class InputMessage(_Open):
    """One turn; the items of an earlier response's `output` are turns, too."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[InputText | InputImage, Field(discriminator="type")]]
    id: str | None = None
    status: str | None = None


class TextFormat(_Open):
    """How the answer must be shaped."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    # `schema` would hide a method of pydantic's base class.
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None
    description: str | None = None


class TextOptions(_Open):
    """Of the text of the answer."""

    format: TextFormat = TextFormat()


class ResponseRequest(_Open):
    """As OpenAI's `POST /v1/responses`; `cache` and `deadline_seconds` are ours."""

    model: str = Field(min_length=1, max_length=200)
    input: str | list[InputMessage]
    instructions: str | None = None
    background: bool | None = None
    stream: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    text: TextOptions | None = None
    service_tier: ServiceTier | None = None
    metadata: Metadata | None = None
    cache: CacheOptions | None = None
    deadline_seconds: float | None = None

    def check(self) -> None:
        """Raises Problem for what cannot be honoured."""
        refuse(self.model_extra, stream_options={"include_obfuscation": False})
        if self.text is not None:
            refuse(self.text.model_extra, "text.")
            refuse(self.text.format.model_extra, "text.format.")
        for place, item in enumerate(self.input if isinstance(self.input, list) else ()):
            refuse(item.model_extra, f"input[{place}].")
            for number, part in enumerate(item.content if isinstance(item.content, list) else ()):
                refuse(part.model_extra, f"input[{place}].content[{number}].")
        if self.background and self.store is False:
            raise Problem(
                400,
                "invalid-request",
                "A background response must be stored to be retrieved: leave 'store' out.",
                errors=[FieldFault(field="store", message="must be true with background")],
            )

    def submission(self, earlier: list[Message]) -> InferenceSubmission:
        """What is asked of us, after an `earlier` conversation. Raises Problem."""
        turns = (
            [Message(role="user", content=self.input)]
            if isinstance(self.input, str)
            else [_turn(item) for item in self.input]
        )
        return make_submission(
            {
                "model_preference": "model",
                "messages": "input",
                "system": "instructions",
                "max_tokens": "max_output_tokens",
                "response_format": "text.format",
            },
            model_preference=self.model,
            messages=[*earlier, *turns],
            system=self.instructions,
            # A background response may be streamed later.
            stream=bool(self.stream or self.background),
            max_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            response_format=_format(self.text.format) if self.text else None,
            priority=PRIORITIES[self.service_tier],
            metadata=self.metadata,
            cache=self.cache,
            deadline_seconds=self.deadline_seconds,
        )

    def surface(self) -> bytes:
        """What is kept with the job to show it as a response again."""
        return orjson.dumps(
            {
                "kind": "response",
                "background": bool(self.background),
                "store": self.store is not False,
                "previous_response_id": self.previous_response_id,
                "text": {
                    "format": self.text.format.model_dump(by_alias=True, exclude_none=True)
                    if self.text
                    else {"type": "text"}
                },
            }
        )


def _turn(item: InputMessage) -> Message:
    if isinstance(item.content, str):
        return Message(role=item.role, content=item.content)
    parts: list[TextPart | ImagePart] = [
        TextPart(type="text", text=part.text) if isinstance(part, InputText) else _image(part)
        for part in item.content
    ]
    return Message(role=item.role, content=parts)


def _image(part: InputImage) -> ImagePart:
    return ImagePart(type="image_url", image_url=ImageURL(url=part.image_url, detail=part.detail))


def _format(given: TextFormat) -> ResponseFormat:
    if given.type != "json_schema":
        return ResponseFormat(type=given.type)
    schema = given.model_dump(by_alias=True, exclude_none=True, exclude={"type"})
    return ResponseFormat(type="json_schema", json_schema=schema)


def job_id_of(response_id: str) -> str | None:
    """The job behind a response; None for what is no response's id."""
    if not RESPONSE_ID.fullmatch(response_id):
        return None
    return "job_" + response_id.removeprefix("resp_")


def response_id(job_id: str) -> str:
    """The id of the response that a job makes."""
    return "resp_" + job_id.removeprefix("job_")


def surface_of(job: Job) -> dict[str, Any] | None:
    """What was kept of the request; None for a job that is no response to be found again."""
    surface: dict[str, Any] = orjson.loads(job.surface) if job.surface else {}
    return surface if surface.get("kind") == "response" else None


def conversation_after(job: Job) -> list[Message]:
    """The conversation up to and with the answer of `job`, without its instructions."""
    assert job.result is not None  # noqa: S101 - it succeeded
    answer = orjson.loads(job.result)["response"]
    return [*(job.parsed_request().messages or ()), Message(role="assistant", content=answer)]


def status_of(job: Job) -> str:
    """The state of a job in the words of the Responses API."""
    if job.state is JobState.SUCCEEDED:
        return "incomplete" if _incomplete(job) else "completed"
    return {
        JobState.QUEUED: "queued",
        JobState.RUNNING: "in_progress",
        JobState.CANCELLED: "cancelled",
    }.get(job.state, "failed")


def _incomplete(job: Job) -> dict[str, str] | None:
    reason = orjson.loads(job.result)["finish_reason"] if job.result else None
    reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
    return {"reason": reasons[reason]} if reason in reasons else None


def message_item(job_id: str, text: str, status: str, *, number: int = 0) -> dict[str, Any]:
    """The answer as an item of `output`. `number` counts how often it began anew."""
    return {
        "id": message_id(job_id, number),
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [text_part(text)],
    }


def message_id(job_id: str, number: int = 0) -> str:
    """The id of the message within a response."""
    return "msg_" + job_id.removeprefix("job_") + (f"_{number}" if number else "")


def text_part(text: str) -> dict[str, Any]:
    """Text as a content part."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def usage_object(usage: Usage) -> dict[str, Any]:
    """Tokens as responses count them."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total,
    }


def accepted_object(job: Job, status: str) -> dict[str, Any]:
    """The response before it has an answer. The same at any time for the same `status`."""
    request: InferenceRequest = job.parsed_request()
    surface = surface_of(job) or {}
    return {
        "id": response_id(job.id),
        "object": "response",
        "created_at": job.created_at // 1000,
        "status": status,
        "background": surface.get("background", False),
        "error": None,
        "incomplete_details": None,
        "instructions": request.system,
        "max_output_tokens": request.max_tokens,
        "metadata": request.metadata,
        "model": request.model_preference,
        "output": [],
        "parallel_tool_calls": False,
        "previous_response_id": surface.get("previous_response_id"),
        "service_tier": TIERS[request.priority],
        "store": surface.get("store", True),
        "temperature": request.temperature,
        "text": surface.get("text", {"format": {"type": "text"}}),
        "tool_choice": "none",
        "tools": [],
        "top_p": request.top_p,
        "truncation": "disabled",
        "usage": None,
    }


def response_object(job: Job, *, number: int = 0) -> dict[str, Any]:
    """The response as its job stands. `number`: see `message_item`."""
    shown = accepted_object(job, status_of(job))
    if job.result is not None:
        response = InferenceResponse.from_stored(job.result)
        incomplete = _incomplete(job)
        item_status = "incomplete" if incomplete else "completed"
        shown["model"] = response.model
        shown["incomplete_details"] = incomplete
        shown["output"] = [message_item(job.id, response.response, item_status, number=number)]
        shown["usage"] = usage_object(response.usage)
        shown["completed_at"] = (job.finished_at or job.created_at) // 1000
    elif job.error is not None and job.state is not JobState.CANCELLED:
        error = orjson.loads(job.error)
        shown["error"] = {"code": _error_code(error["type"]), "message": error["message"]}
    return shown


def _error_code(kind: str) -> str:
    """One of the codes that the Responses API knows."""
    status = job_failure(kind).status
    if kind == "no_capacity":
        return "rate_limit_exceeded"
    return "invalid_prompt" if status == 400 else "server_error"
