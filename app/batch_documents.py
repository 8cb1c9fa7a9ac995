"""The shapes of batches in answers, for the OpenAPI document."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tasks.batches import BatchState
from tasks.inference import Priority


class BatchCounts(BaseModel):
    """Lines by how they ended."""

    total: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int
    open: int


class BatchUsage(BaseModel):
    """What the whole batch took; an answer that several lines share counts once."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost: float = Field(description="US dollars.")
    cache_hits: int


class BatchView(BaseModel):
    """A batch."""

    model_config = ConfigDict(title="Batch")

    id: str
    object: Literal["batch"] = "batch"
    state: BatchState
    priority: Priority
    completion_window: str
    counts: BatchCounts
    eta_seconds: float | None = Field(description="To the end, at the speed so far.")
    usage: BatchUsage | None = Field(description="Null until it has ended.")
    metadata: dict[str, str]
    created_at: str
    expires_at: str
    ended_at: str | None
    results_url: str


class BatchPage(BaseModel):
    """A page of batches, newest first."""

    data: list[BatchView]
    next_cursor: str | None
