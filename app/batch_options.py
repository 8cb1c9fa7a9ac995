"""What a client asks of a whole batch."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from tasks.inference import Metadata, Priority

MIN_WINDOW_SECONDS = 300
MAX_WINDOW_SECONDS = 604_800
_WINDOW = re.compile(r"([1-9]\d{0,5})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def window_seconds(text: str) -> int:
    """Seconds of a window like 5m, 24h or 7d. Raises ValueError."""
    match = _WINDOW.fullmatch(text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not MIN_WINDOW_SECONDS <= seconds <= MAX_WINDOW_SECONDS:
        raise ValueError("must be a time from 5m to 7d, for instance 90m or 24h")
    return seconds


def _window(text: str) -> str:
    window_seconds(text)
    return text


Window = Annotated[str, AfterValidator(_window)]


class BatchOptions(BaseModel):
    """Options: query parameters of a raw upload, fields of a form, or members of an object."""

    model_config = ConfigDict(extra="forbid")

    completion_window: Window = Field(
        default="24h", description="What is not done when it has passed is `expired`: 5m to 7d."
    )
    priority: Priority = Priority.LOW
    metadata: Metadata = Field(default_factory=dict)
    webhook_url: Annotated[str, StringConstraints(max_length=2_048)] | None = None


class BatchSubmission(BatchOptions):
    """A batch as a JSON object: a file uploaded before, or the requests themselves."""

    input_file_id: Annotated[str, StringConstraints(max_length=100)] | None = Field(
        default=None, description="A JSONL file uploaded with purpose `batch`."
    )
    requests: list[dict[str, Any]] | None = Field(
        default=None, description="Submissions, each with a `custom_id` if you like."
    )
