"""What a provider's wire format is made of, and the parts that several formats share."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from config.catalogue import ModelSpec
from tasks.inference import FinishReason, GenerationParams, Message, Usage
from workers.providers.errors import BadRequest, InvalidResponse

DEFAULT_MAX_TOKENS = 16_384  # where a format demands a number and the request gives none
JSON_INSTRUCTION = "Answer with one valid JSON object and nothing else."

_DATA_URL = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+);base64,(?P<data>.*)", re.DOTALL)


class Wire(BaseModel):
    """A piece of a provider's JSON. Unknown fields are ignored: providers add them at will."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


def _none_as_zero(value: Any) -> Any:
    return 0 if value is None else value


Count = Annotated[float, BeforeValidator(_none_as_zero), Field(ge=0, le=1e12, allow_inf_nan=False)]

WireT = TypeVar("WireT", bound=Wire)


def read_json(model: type[WireT], data: bytes | str) -> WireT:
    """Parse `data` as `model`. Raises InvalidResponse, without echoing the content."""
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise InvalidResponse(
            f"the answer is not what the provider documents: {where}: {first['type']}"
        ) from error


@dataclass(frozen=True)
class Call:
    """One call as a dialect sees it."""

    messages: Sequence[Message]
    model: str  # the provider's name of it
    params: GenerationParams
    stream: bool
    spec: ModelSpec | None  # None: a model that the catalogue does not know

    def can(self, capability: str) -> bool:
        """Whether the model takes a parameter; an unknown model is sent everything."""
        return self.spec is None or capability in self.spec.capabilities

    @property
    def system(self) -> str:
        """System and developer messages, joined by blank lines."""
        return "\n\n".join(m.text for m in self.messages if m.role in ("system", "developer"))

    @property
    def turns(self) -> list[Message]:
        """The messages of user and assistant."""
        return [m for m in self.messages if m.role in ("user", "assistant")]

    def sampling(self, **names: str) -> dict[str, Any]:
        """The sampling parameters that were given and that the model takes, under the names of
        the wire format: `sampling(temperature="temperature", top_p="topP")`.

        What a model does not take is left out: it shades an answer and does not define it.
        """
        needs = {
            "temperature": "temperature",
            "top_p": "temperature",
            "seed": "seed",
            "frequency_penalty": "penalties",
            "presence_penalty": "penalties",
            "stop": "stop",
        }
        return {
            wire: value
            for name, wire in names.items()
            if (value := getattr(self.params, name)) is not None and self.can(needs[name])
        }


@dataclass(frozen=True)
class Request:
    """What to send: the path below the base URL, headers beside the key's, the JSON body."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What came back, in our terms."""

    text: str
    model: str
    finish_reason: FinishReason
    usage: Usage


class StreamReader(Protocol):
    """Reads one streamed answer, event by event."""

    def feed(self, data: str) -> str:
        """Take one event's data and return the text that it adds. Raises ProviderError."""
        ...

    @property
    def done(self) -> bool:
        """Whether the provider said that the answer is over."""
        ...

    def answer(self) -> Answer:
        """Everything read."""
        ...


class Dialect(Protocol):
    """A provider's wire format."""

    status_path: str  # answers GET with 200 where key and address are right

    def auth(self, api_key: str) -> dict[str, str]:
        """The headers that carry the key."""
        ...

    def request(self, call: Call) -> Request:
        """What to send for a call. Raises BadRequest for what the format cannot say."""
        ...

    def answer(self, body: bytes, model: str) -> Answer:
        """Read a whole answer. Raises ProviderError."""
        ...

    def reader(self, model: str) -> StreamReader:
        """A reader for one streamed answer."""
        ...


def usage(input_tokens: float, output_tokens: float, cached_tokens: float = 0) -> Usage:
    """Usage from a format's counts; cached tokens are part of the input tokens."""
    return Usage(
        input_tokens=int(input_tokens),
        output_tokens=int(output_tokens),
        cached_tokens=int(min(cached_tokens, input_tokens)),
    )


def inline_image(url: str) -> tuple[str, str] | None:
    """Media type and base64 data of a `data:` URL; None for any other URL. Raises BadRequest."""
    if not url.startswith("data:"):
        return None
    match = _DATA_URL.fullmatch(url)
    if match is None:
        raise BadRequest("an image's data URL must be of the form data:<type>;base64,<data>")
    try:
        base64.b64decode(match["data"], validate=True)
    except binascii.Error as error:
        raise BadRequest("an image's data URL is not valid base64") from error
    return match["type"], match["data"]


def finish(reason: str | None, names: Mapping[str, FinishReason]) -> FinishReason:
    """A format's reason to stop in our terms; unknown ones are `other`."""
    return names.get(reason or "", "other")


def joined(parts: Iterable[str | None]) -> str:
    """Text pieces joined, absent ones left out."""
    return "".join(part for part in parts if part)
