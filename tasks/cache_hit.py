"""A stored answer that serves a request: found by a worker, or by the API for an exact repeat."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from tasks.exact_cache import Answer, Entry
from tasks.inference import InferenceResponse, Metadata, Usage

Layer = Literal["exact", "semantic"]


@dataclass(frozen=True)
class CacheHit:
    """A stored answer that serves the request, and why."""

    answer: Answer
    layer: Layer
    fingerprint: str  # of the stored entry
    similarity: float  # cosine; 1.0 for an exact hit
    verifier_score: float | None  # None for an exact hit
    age: float  # seconds since the answer was given
    saved_cost: float  # US dollars
    saved_seconds: float
    prompt: str  # the stored prompt
    ttl: float  # seconds that the stored answer lives, from its storing or last hit

    def as_response_field(self) -> dict[str, Any]:
        """The `cache` field of an `InferenceResponse`."""
        return {
            "layer": self.layer,
            "similarity": round(self.similarity, 4),
            "verifier_score": None
            if self.verifier_score is None
            else round(self.verifier_score, 4),
            "age_seconds": round(self.age, 1),
            "saved_cost": self.saved_cost,
            "saved_seconds": round(self.saved_seconds, 3),
        }


def hit_of(entry: Entry, layer: Layer, similarity: float, score: float | None) -> CacheHit:
    """The hit that serving `entry` makes."""
    return CacheHit(
        answer=entry.answer,
        layer=layer,
        fingerprint=entry.fingerprint,
        similarity=similarity,
        verifier_score=score,
        age=entry.age(),
        saved_cost=entry.answer.cost,
        saved_seconds=entry.answer.latency,
        prompt=entry.prompt,
        ttl=entry.ttl,
    )


def cached_response(
    hit: CacheHit, *, latency: float, request_id: str, metadata: Metadata
) -> InferenceResponse:
    """The answer to a request that `hit` serves; `latency` in seconds since it was accepted."""
    answer = hit.answer
    return InferenceResponse(
        response=answer.text,
        provider=answer.provider,
        model=answer.model,
        finish_reason="stop",  # nothing else is stored
        latency=latency,
        tokens_used=0,
        usage=Usage(),
        cost=0.0,
        saved=hit.saved_cost,
        cache_hit=True,
        cache={**hit.as_response_field(), "entry": hit.fingerprint},
        request_id=request_id,
        created_at=datetime.now(UTC),
        metadata=metadata,
    )
