"""Chat completions: OpenAI's request to our submission, our answer to OpenAI's objects."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.openai.fields import PRIORITIES, TIERS, ServiceTier, make_submission, refuse
from app.problems import FieldFault, Problem
from tasks.inference import (
    CacheOptions,
    InferenceResponse,
    InferenceSubmission,
    Message,
    Metadata,
    ResponseFormat,
    Usage,
)
from tasks.jobs import Job


class _Open(BaseModel):
    """Fields that are not declared are looked at one by one, and refused by name."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, frozen=True)


class ChatMessage(Message):
    """One turn."""

    model_config = ConfigDict(extra="allow")


class StreamOptions(_Open):
    """What a stream shall contain."""

    include_usage: bool = False


class ChatCompletionRequest(_Open):
    """As OpenAI's `POST /v1/chat/completions`; `cache` and `deadline_seconds` are ours."""

    model: str = Field(min_length=1, max_length=200)
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    response_format: ResponseFormat | None = None
    service_tier: ServiceTier | None = None
    metadata: Metadata | None = None
    cache: CacheOptions | None = None
    deadline_seconds: float | None = None

    @property
    def include_usage(self) -> bool:
        """Whether the stream shall end with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def submission(self) -> InferenceSubmission:
        """What is asked of us. Raises Problem for what cannot be honoured."""
        # `store: true` promises that OpenAI's own stored completions API finds it.
        refuse(self.model_extra, store=False)
        refuse(self.stream_options.model_extra if self.stream_options else None, "stream_options.")
        for place, message in enumerate(self.messages):
            refuse(message.model_extra, f"messages[{place}].")
        most = self.max_completion_tokens
        if most is not None and self.max_tokens not in (None, most):
            raise Problem(
                400,
                "invalid-request",
                "Give 'max_completion_tokens' or 'max_tokens', not two values.",
                errors=[FieldFault(field="max_tokens", message="contradicts another field")],
            )
        return make_submission(
            {"model_preference": "model"},
            model_preference=self.model,
            messages=[Message(role=m.role, content=m.content) for m in self.messages],
            stream=bool(self.stream),
            max_tokens=self.max_tokens if most is None else most,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=[self.stop] if isinstance(self.stop, str) else self.stop,
            seed=self.seed,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            response_format=self.response_format,
            priority=PRIORITIES[self.service_tier],
            metadata=self.metadata,
            cache=self.cache,
            deadline_seconds=self.deadline_seconds,
        )


def completion_id(job_id: str) -> str:
    """The id of the chat completion that a job makes."""
    return "chatcmpl-" + job_id.removeprefix("job_")


def finish_reason(response: InferenceResponse) -> str:
    """Why the answer ended, in OpenAI's words."""
    return "stop" if response.finish_reason == "other" else response.finish_reason


def usage_object(usage: Usage) -> dict[str, Any]:
    """Tokens as chat completions count them."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def completion(job: Job) -> dict[str, Any]:
    """The `chat.completion` of a job that succeeded."""
    assert job.result is not None  # noqa: S101 - it succeeded
    response = InferenceResponse.from_stored(job.result)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": response.response,
        "refusal": None,
        "annotations": [],
    }
    return {
        "id": completion_id(job.id),
        "object": "chat.completion",
        "created": job.created_at // 1000,
        "model": response.model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": finish_reason(response),
            }
        ],
        "usage": usage_object(response.usage),
        "service_tier": TIERS[job.parsed_request().priority],
        "system_fingerprint": None,
    }


class Chunks:
    """The `chat.completion.chunk` objects of one job."""

    def __init__(self, job: Job, *, include_usage: bool) -> None:
        request = job.parsed_request()
        self._head = {
            "id": completion_id(job.id),
            "object": "chat.completion.chunk",
            "created": job.created_at // 1000,
            "model": request.model_preference,
            "service_tier": TIERS[request.priority],
            "system_fingerprint": None,
        }
        self._include_usage = include_usage

    def first(self) -> dict[str, Any]:
        """Says who speaks."""
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def text(self, text: str) -> dict[str, Any]:
        """A piece of the answer."""
        return self._chunk({"content": text})

    def last(self, response: InferenceResponse) -> list[dict[str, Any]]:
        """Why the answer ended, and what it took if that was asked for."""
        chunks = [self._chunk({}, finish_reason(response))]
        if self._include_usage:
            chunks.append({**self._head, "choices": [], "usage": usage_object(response.usage)})
        return chunks

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        chunk = {**self._head, "choices": [choice]}
        if self._include_usage:
            chunk["usage"] = None
        return chunk


class DivergedError(Exception):
    """The answer began anew and took another course than what was shown."""


class Continuation:
    """Text that only grows, from a stream that may begin anew.

    A chat completion's stream has no way to take text back. After a restart, what the client has
    seen already is skipped while the new text is the same, as it is at temperature 0.
    """

    def __init__(self) -> None:
        self._shown = ""
        self._anew: str | None = None  # the text since a restart, while it is behind

    def restart(self) -> None:
        """The answer begins anew."""
        if self._shown:
            self._anew = ""

    def grow(self, text: str) -> str:
        """What to show of the next piece. Raises DivergedError."""
        if self._anew is None:
            self._shown += text
            return text
        self._anew += text
        if self._shown.startswith(self._anew):
            if len(self._anew) == len(self._shown):
                self._anew = None
            return ""
        if not self._anew.startswith(self._shown):
            raise DivergedError(DivergedError.__doc__)
        more = self._anew[len(self._shown) :]
        self._shown, self._anew = self._anew, None
        return more

    def end(self) -> None:
        """The answer is complete. Raises DivergedError if it is shorter than what was shown."""
        if self._anew is not None:
            raise DivergedError(DivergedError.__doc__)
