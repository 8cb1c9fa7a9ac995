"""What came of a batch's lines, in the order of the input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import orjson
import redis

from tasks.batches import Batch, PreparedLine, member_job_id
from tasks.files import FileStore
from tasks.jobs import JobState

LINES_AT_ONCE = 200


@dataclass(frozen=True)
class LineResult:
    """One line and what came of it."""

    line: PreparedLine
    job_id: str
    state: JobState
    response: dict[str, Any] | None  # InferenceResponse
    error: dict[str, Any] | None  # type, message
    shared: bool  # an equal line before it brought the answer, and its cost

    def view(self) -> dict[str, Any]:
        """As a client of the native interface sees it."""
        return {
            "line": self.line.number,
            "custom_id": self.line.custom_id or None,
            "job_id": self.job_id,
            "state": self.state.value,
            "response": self.response,
            "error": self.error,
        }


def line_results(
    client: redis.Redis, prefix: str, files: FileStore, batch: Batch
) -> Iterator[LineResult]:
    """The lines that have ended; once the batch is stopped or done, that is every line."""
    stored = files.get(batch.lines_file, batch.tenant)
    with files.open(stored) as stream:
        lines = map(PreparedLine.load, iter(stream.readline, b""))
        seen: set[str] = set()
        while part := list(islice(lines, LINES_AT_ONCE)):
            pipe = client.pipeline(transaction=False)
            for line in part:
                pipe.hmget(
                    f"{prefix}job:{member_job_id(batch.id, line.key)}", "state", "result", "error"
                )
            for line, row in zip(part, pipe.execute(), strict=True):
                found = _result(batch, line, row, line.key in seen)
                seen.add(line.key)
                if found is not None:
                    yield found


def _result(
    batch: Batch, line: PreparedLine, row: list[bytes | None], shared: bool
) -> LineResult | None:
    state, result, error = row
    job_id = member_job_id(batch.id, line.key)
    if state is None:
        if not batch.stop:
            return None
        why = {
            "expired": "The completion window of the batch ended before this line was done.",
            "cancelled": "The batch was cancelled by request.",
        }[batch.stop]
        kind = "deadline" if batch.stop == "expired" else "cancelled"
        return LineResult(
            line, job_id, JobState(batch.stop), None, {"type": kind, "message": why}, shared
        )
    now = JobState(state.decode())
    if not now.terminal:
        return None
    response = cast("dict[str, Any] | None", orjson.loads(result) if result else None)
    if response is not None:
        response["metadata"] = line.metadata
        if shared:
            response["cost"] = 0.0
    return LineResult(line, job_id, now, response, orjson.loads(error) if error else None, shared)


class UsageSum:
    """Tokens and cost of a batch; an answer that several lines share counts once."""

    def __init__(self) -> None:
        self._input = self._output = self._cached = 0
        self._cost = 0.0
        self._hits = 0

    def add(self, result: LineResult) -> None:
        """Count a line."""
        if result.response is None or result.shared:
            return
        usage = result.response["usage"]
        self._input += usage["input_tokens"]
        self._output += usage["output_tokens"]
        self._cached += usage["cached_tokens"]
        self._cost += result.response["cost"]
        self._hits += result.response["cache_hit"]

    def total(self) -> dict[str, Any]:
        """The sums; cost in US dollars."""
        return {
            "input_tokens": self._input,
            "output_tokens": self._output,
            "cached_tokens": self._cached,
            "cost": round(self._cost, 10),
            "cache_hits": self._hits,
        }
