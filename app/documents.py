"""The shapes of answers and parameters, for validation and for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from tasks.inference import Attempt, InferenceResponse, Priority
from tasks.jobs import JobState


class Parameters(BaseModel):
    """Query or path parameters. The schema is made once: it is asked for on every request."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    _schemas: ClassVar[dict[str, dict[str, Any]]] = {}

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The JSON schema of the parameters."""
        key = f"{cls.__qualname__}{args}{kwargs}"
        if key not in cls._schemas:
            cls._schemas[key] = super().model_json_schema(*args, **kwargs)
        return cls._schemas[key]


JobID = Annotated[str, StringConstraints(pattern=r"^job_[0-9a-f]{32}$")]


class JobPath(BaseModel):
    """Names a job."""

    job_id: str = Field(max_length=100, description="The id from the submission.")


class WaitQuery(Parameters):
    """How long to wait for the end of the job."""

    wait: float | None = Field(
        default=None, ge=0, le=600, description="Seconds; as the header `Prefer: wait=20`."
    )


class ListQuery(Parameters):
    """A page of jobs."""

    limit: int = Field(default=20, ge=1, le=100)
    cursor: Annotated[str, StringConstraints(max_length=200)] | None = Field(
        default=None, description="`next_cursor` of the page before."
    )


class StreamQuery(Parameters):
    """How to follow a job."""

    starting_after: Annotated[str, StringConstraints(max_length=50)] | None = Field(
        default=None, description="As the header `Last-Event-ID`: the last event that was seen."
    )
    cancel_on_disconnect: bool = Field(
        default=False, description="Cancel the job when the client leaves before its end."
    )


class ModelPath(BaseModel):
    """Names a model or route."""

    model: str = Field(max_length=200, description="An id, alias or route.")


class ResponsePath(BaseModel):
    """Names a response."""

    response_id: str = Field(max_length=100, description="As `resp_...`.")


class ResponseQuery(Parameters):
    """How to retrieve a response."""

    stream: bool = False
    starting_after: int | None = Field(
        default=None,
        ge=-1,
        le=2**53,
        description="The sequence number of the last event that was seen.",
    )


class Timing(BaseModel):
    """Where a job's time went, in milliseconds."""

    queued_ms: int = Field(description="Waiting for a worker.")
    cache_ms: int = Field(description="Looking in the cache.")
    provider_ms: int = Field(description="Waiting for providers.")
    total_ms: int | None = Field(description="From acceptance to the end; null until then.")


class JobError(BaseModel):
    """Why a job has no answer."""

    type: str
    message: str


class JobView(BaseModel):
    """A job."""

    model_config = ConfigDict(title="Job")

    id: JobID
    object: Literal["job"] = "job"
    state: JobState
    priority: Priority
    created_at: str
    started_at: str | None
    finished_at: str | None
    deadline_at: str
    not_before: str | None = Field(description="Waiting for a later try until then.")
    attempt: int
    request_id: str
    timing: Timing
    attempts: list[Attempt] = Field(description="Every provider call, in order.")
    result: InferenceResponse | None
    error: JobError | None
    queue_position: int | None = Field(default=None, description="1 is next; an estimate.")
    eta_seconds: float | None = Field(
        default=None,
        description="Until it starts: an estimate from the pace of its lane, which is known only "
        "while more work waits than workers take.",
    )


class JobPage(BaseModel):
    """A page of jobs, newest first."""

    data: list[JobView]
    next_cursor: str | None


class Health(BaseModel):
    """Whether the service can take work."""

    status: Literal["ok", "degraded", "unavailable"]
    checks: dict[str, str]
    version: str


def problems(*statuses: int) -> dict[str | int, Any]:
    """The error answers of an operation, for the OpenAPI document."""
    return {
        str(status): {
            "description": "Problem",
            "content": {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
            },
        }
        for status in statuses
    }


class OpenAIErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = Field(description="The parameter at fault.")
    code: str | None


class OpenAIError(BaseModel):
    """An error in OpenAI's shape."""

    error: OpenAIErrorDetail


def openai_answers(*statuses: int) -> dict[str | int, Any]:
    """The answers of an OpenAI-compatible operation, for the OpenAPI document."""
    return {
        str(status): OpenAIError
        if status >= 400
        else {"description": "As OpenAI's", "content": {"application/json": {}}}
        for status in statuses
    }
