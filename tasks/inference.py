"""What a client asks for and what it gets: the models shared by API, ledger and workers."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

MAX_PROMPT_CHARS = 400_000
MAX_MESSAGES = 1_000
MAX_METADATA_PAIRS = 16


class Priority(StrEnum):
    """Which of the three queues a job waits in."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class _Strict(BaseModel):
    """Unknown fields and non-finite numbers are refused, never dropped in silence."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    @classmethod
    def from_stored(cls, data: bytes) -> Self:
        """What some version of ours wrote: fields that this one does not know are left alone."""
        return cls.model_validate_json(data, extra="ignore")


def _no_null(text: str) -> str:
    # Providers refuse it or cut the text there, and databases cannot keep it.
    if "\x00" in text:
        raise ValueError("must not contain the null character (U+0000)")
    return text


Clean = Annotated[str, AfterValidator(_no_null)]
Text = Annotated[Clean, StringConstraints(max_length=MAX_PROMPT_CHARS)]


class TextPart(_Strict):
    """A piece of text inside a message."""

    type: Literal["text"]  # no default: a stored request leaves defaults out, and this tells parts
    text: Text


class ImageURL(_Strict):
    """Where an image is: an https URL or a base64 `data:` URL."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=8_000_000)]
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(_Strict):
    """An image inside a message, for models that see."""

    type: Literal["image_url"]
    image_url: ImageURL


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Strict):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[Part], Field(min_length=1, max_length=100)]

    @property
    def text(self) -> str:
        """The message's text parts joined by newlines; images are left out."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def images(self) -> list[ImagePart]:
        """The message's images, in order."""
        if isinstance(self.content, str):
            return []
        return [part for part in self.content if isinstance(part, ImagePart)]


class ResponseFormat(_Strict):
    """How the answer must be shaped: free text, any JSON object, or JSON by a schema."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: dict[str, Any] | None = Field(
        default=None, description="As OpenAI's: `name`, `schema`, `strict`."
    )

    @model_validator(mode="after")
    def _schema_given(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema must be given exactly when type is 'json_schema'")
        return self


Tag = Annotated[Clean, StringConstraints(min_length=1, max_length=100)]


class CacheOptions(_Strict):
    """How this request uses the cache."""

    mode: Literal["on", "off", "exact", "refresh"] = Field(
        default="on",
        description="on: exact, then semantic; exact: no semantic lookup; "
        "refresh: ask the provider and store anew; off: neither read nor store.",
    )
    threshold: float | None = Field(
        default=None, ge=0.5, le=1.0, description="Least cosine similarity of a semantic hit."
    )
    ttl: int | None = Field(
        default=None, ge=1, le=2_592_000, description="Seconds that the stored answer lives."
    )
    tags: list[Tag] = Field(
        default_factory=list,
        max_length=16,
        description="Labels of the stored answer, by which it can be forgotten.",
    )


class GenerationParams(_Strict):
    """What changes the answer beside the conversation. Each field is part of the cache key."""

    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stop: list[Annotated[Clean, StringConstraints(min_length=1, max_length=200)]] | None = Field(
        default=None, min_length=1, max_length=4
    )
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    response_format: ResponseFormat | None = None


Metadata = Annotated[
    dict[
        Annotated[Clean, StringConstraints(min_length=1, max_length=64)],
        Annotated[Clean, StringConstraints(max_length=512)],
    ],
    Field(max_length=MAX_METADATA_PAIRS),
]


class InferenceSubmission(GenerationParams):
    """The body of a submission: one prompt, or a conversation."""

    prompt: Annotated[Text, StringConstraints(min_length=1)] | None = Field(
        default=None, description="A single user message; give this or `messages`."
    )
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    system: Text | None = Field(default=None, description="Put before the conversation.")
    model_preference: Annotated[str, StringConstraints(min_length=1, max_length=200)] = Field(
        default="auto", description="A model id or alias from `/v1/models`, a route, or `auto`."
    )
    stream: bool = False
    priority: Priority = Priority.NORMAL
    metadata: Metadata = Field(default_factory=dict)
    cache: CacheOptions = Field(default_factory=CacheOptions)
    deadline_seconds: float | None = Field(
        default=None, ge=1, le=604_800, description="The job is ended when this has passed."
    )
    webhook_url: Annotated[str, StringConstraints(max_length=2_048)] | None = None

    @model_validator(mode="after")
    def _one_conversation(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of 'prompt' and 'messages'")
        if self.messages is not None and self.messages[-1].role != "user":
            raise ValueError("the last of 'messages' must have the role 'user'")
        return self

    def conversation(self) -> list[Message]:
        """The whole conversation as messages, system text first."""
        # Constructed, not validated: the texts were, as fields of this model.
        head = [Message.model_construct(role="system", content=self.system)] if self.system else []
        if self.prompt is not None:
            return [*head, Message.model_construct(role="user", content=self.prompt)]
        return [*head, *(self.messages or [])]

    def params(self) -> GenerationParams:
        """The generation parameters alone."""
        return GenerationParams.model_construct(**{name: getattr(self, name) for name in _PARAMS})


_PARAMS = tuple(GenerationParams.model_fields)


class InferenceRequest(InferenceSubmission):
    """A submission with what the server adds: who asked, and when."""

    user_id: str
    created_at: datetime


class Usage(_Strict):
    """Tokens as the provider counted them."""

    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    cached_tokens: int = Field(
        default=0, ge=0, description="Input tokens served from the provider's own prompt cache."
    )

    @property
    def total(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens


FinishReason = Literal["stop", "length", "content_filter", "tool_calls", "other"]


class Attempt(_Strict):
    """One provider call that was made, or one candidate that was passed over, and why."""

    provider: str
    model: str
    status: str = Field(description="ok, or the error type (see workers/providers/errors.py)")
    latency_ms: float = 0.0
    error: str | None = None


class InferenceResponse(_Strict):
    """The answer, as every way of delivery carries it."""

    response: str
    provider: str
    model: str
    finish_reason: FinishReason
    latency: float = Field(description="Seconds from acceptance to the end.")
    tokens_used: int
    usage: Usage
    cost: float = Field(description="US dollars paid to the provider for this job.")
    saved: float = Field(default=0.0, description="US dollars that the cache saved.")
    cache_hit: bool
    cache: dict[str, Any] | None = Field(
        default=None, description="layer, similarity, verifier score and age of a hit"
    )
    request_id: str
    created_at: datetime
    metadata: Metadata = Field(default_factory=dict)
    notice: str | None = Field(default=None, description="For instance: the model was retired.")
